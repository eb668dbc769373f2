//! DNS for the node's pods: only the endpoints of headless Services.
//!
//! A cluster has CoreDNS for this. The names in the application's manifests also work there.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

use anyhow::{Context as _, Result};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use crate::client::block_on;
use crate::sandbox::DNS_ADDRESS;

/// Answers at the address that the kubelet writes to every pod's `resolv.conf`, until this process
/// ends.
pub fn serve(client: Client) -> Result<()> {
    let socket = UdpSocket::bind((DNS_ADDRESS, 53)).context("binding the DNS port")?;
    thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            // A query that cannot be parsed gets no answer. A client repeats a query whose answer
            // was lost.
            if let Some(reply) = answer(&client, &buffer[..length]) {
                let _ = socket.send_to(&reply, peer);
            }
        }
    });
    Ok(())
}

fn answer(client: &Client, query: &[u8]) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    let question = query.questions.first()?.clone();
    let name = question.qname.to_string();
    let mut reply = query.into_reply();
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    match addresses(client, &name) {
        None => *reply.rcode_mut() = RCODE::NameError,
        Some(addresses) if question.qtype == QTYPE::TYPE(TYPE::A) => {
            reply.answers.extend(addresses.into_iter().map(|address| {
                let data = RData::A(A {
                    address: address.into(),
                });
                ResourceRecord::new(question.qname.clone(), CLASS::IN, 0, data)
            }));
        }
        // The name exists, but has no record of this type.
        Some(_) => {}
    }
    reply.build_bytes_vec_compressed().ok()
}

/// The ready endpoints of `<service>.<namespace>.svc.cluster.local`; `None` if there is no such
/// Service.
fn addresses(client: &Client, name: &str) -> Option<Vec<Ipv4Addr>> {
    let mut labels = name.strip_suffix(".svc.cluster.local")?.split('.');
    let (service, namespace) = (labels.next()?, labels.next()?);
    if labels.next().is_some() {
        return None;
    }
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = block_on(slices.list(&of_service)).ok()?.items;
    (!slices.is_empty()).then(|| {
        slices
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| {
                endpoint
                    .conditions
                    .as_ref()
                    .is_none_or(|conditions| conditions.ready != Some(false))
            })
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|address| address.parse().ok())
            .collect()
    })
}
