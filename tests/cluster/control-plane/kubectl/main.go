// Command kubectl is the client, in a binary of its own: the tests run it a thousand times and more, and what the servers
// initialise at each start would cost three times what it does itself.
package main

import (
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	// kubectl prints its own errors in its own way; cli.Run would print them a second time.
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
