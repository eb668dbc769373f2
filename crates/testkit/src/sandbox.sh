#!/bin/sh
# PID 1 of a cluster test's namespaces: prepares mounts and network, then runs the test program and reaps what it leaves.
#
# Everything that is mounted, linked or started from here on ends with this process. That is the whole tear-down.
set -eu

# Fixed paths that containerd, the CNI plugins and kubelet write to; a private tmpfs keeps them off the machine, and the
# node's own state (etcd, images, pods) under /run in memory.
mkdir -p /var/lib/cni /var/lib/kubelet
for folder in /run /var/log /var/lib/cni /var/lib/kubelet; do
    mount -t tmpfs -o mode=755 tmpfs "$folder"
done
# kubelet refuses volumes with mount propagation where / isn't shared. It is shared among our own mount namespaces
# alone: unshare has cut it off from the machine's.
mount --make-rshared /

ip link set lo up
# The node's address, and those of the two Services that pods expect of every cluster. The API server listens on all
# addresses, so it is reached without kube-proxy; nothing listens for DNS, so a look-up fails at once.
for address in "$NODE_ADDRESS" "$SERVICE_ADDRESS" "$DNS_ADDRESS"; do
    ip address add "$address/32" dev lo
done
echo 1 >/proc/sys/net/ipv4/ip_forward

# In the background, so that this shell waits for any child, which is what reaps the orphans that end here.
"$@" &
wait $!
