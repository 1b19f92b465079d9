//! Networks: which of them hold an address, narrowest first. The address space is cut into intervals,
//! each with its narrowest network; from there a chain of parents leads to ever wider ones.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::flat::{IntervalV4, IntervalV6, NONE, NetNode};

/// The node "any address", where every chain ends.
pub(crate) const ANY: u32 = 0;

/// The finished structure, as it lies in a snapshot.
#[derive(Clone, Copy)]
pub(crate) struct Nets<'a> {
    pub nodes: &'a [NetNode],
    pub v4: &'a [IntervalV4],
    pub v6: &'a [IntervalV6],
}

impl<'a> Nets<'a> {
    /// The narrowest network that holds `ip`; [`ANY`] if none does.
    #[inline]
    pub(crate) fn narrowest(&self, ip: IpAddr) -> u32 {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let key = u32::from(ip);
                let after = self.v4.partition_point(|interval| interval.start.get() <= key);
                after.checked_sub(1).and_then(|at| self.v4.get(at)).map_or(ANY, |i| i.node.get())
            }
            IpAddr::V6(ip) => {
                let key = ip.octets();
                let after = self.v6.partition_point(|interval| interval.start <= key);
                after.checked_sub(1).and_then(|at| self.v6.get(at)).map_or(ANY, |i| i.node.get())
            }
        }
    }

    /// `node` and all wider networks, down to and with [`ANY`].
    #[inline]
    pub(crate) fn chain(&self, node: u32) -> Chain<'a> {
        Chain { nodes: self.nodes, next: Some(node) }
    }

    /// The network of `node`; `None` for [`ANY`].
    pub(crate) fn network(&self, node: u32) -> Option<IpNet> {
        let node = self.nodes.get(node as usize)?;
        let ip = match node.family {
            4 => {
                let [.., a, b, c, d] = node.address;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            6 => IpAddr::V6(Ipv6Addr::from(node.address)),
            _ => return None,
        };
        IpNet::new(ip, node.prefix).ok()
    }
}

/// See [`Nets::chain`]. Each parent is an earlier node, so the walk ends whatever the bytes say.
pub(crate) struct Chain<'a> {
    nodes: &'a [NetNode],
    next: Option<u32>,
}

impl Iterator for Chain<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let node = self.next?;
        self.next = match self.nodes.get(node as usize) {
            Some(record) if record.parent.get() < node => Some(record.parent.get()),
            _ => None,
        };
        Some(node)
    }
}

/// Collects distinct networks under provisional numbers, then lays them out.
#[derive(Default)]
pub(crate) struct NetsBuilder {
    numbers: HashMap<IpNet, u32>,
}

/// What [`NetsBuilder::finish`] makes.
pub(crate) struct NetsLayout {
    pub nodes: Vec<NetNode>,
    pub v4: Vec<IntervalV4>,
    pub v6: Vec<IntervalV6>,
    /// Provisional number → node.
    pub node_of: Vec<u32>,
}

impl NetsBuilder {
    /// The provisional number of `net` (canonical: no host bits, IPv4 not in its mapped form).
    pub(crate) fn number(&mut self, net: IpNet) -> u32 {
        let fresh = self.numbers.len() as u32;
        *self.numbers.entry(net).or_insert(fresh)
    }

    pub(crate) fn finish(&self) -> NetsLayout {
        let mut nets: Vec<(IpNet, u32)> =
            self.numbers.iter().map(|(net, number)| (*net, *number)).collect();
        // Wider ones first among those with the same address: a parent comes before its children.
        nets.sort_unstable_by_key(|(net, _)| {
            (net.addr().is_ipv6(), net.network(), net.prefix_len())
        });
        let mut node_of = vec![ANY; nets.len()];
        let none = NONE.into();
        let mut nodes =
            vec![NetNode { parent: 0.into(), atom: none, address: [0; 16], family: 0, prefix: 0 }];
        let mut cuts: [Vec<(u128, u32)>; 2] = [vec![(0, ANY)], vec![(0, ANY)]];
        // Networks that hold the current position, with their last addresses, widest first.
        let mut open: Vec<(u128, u32)> = Vec::new();
        let mut family = false;
        for (net, number) in nets {
            let v6 = net.addr().is_ipv6();
            if v6 != family {
                close(&mut open, None, &mut cuts[usize::from(family)], family);
                family = v6;
            }
            let (first, last) = (key(net.network()), key(net.broadcast()));
            close(&mut open, Some(first), &mut cuts[usize::from(v6)], v6);
            let node = nodes.len() as u32;
            node_of[number as usize] = node;
            nodes.push(NetNode {
                parent: open.last().map_or(ANY, |(_, parent)| *parent).into(),
                atom: none,
                address: first.to_be_bytes(),
                family: if v6 { 6 } else { 4 },
                prefix: net.prefix_len(),
            });
            cut(&mut cuts[usize::from(v6)], first, node);
            open.push((last, node));
        }
        close(&mut open, None, &mut cuts[usize::from(family)], family);
        let [v4, v6] = cuts;
        NetsLayout {
            nodes,
            v4: v4
                .into_iter()
                .map(|(start, node)| IntervalV4 { start: (start as u32).into(), node: node.into() })
                .collect(),
            v6: v6
                .into_iter()
                .map(|(start, node)| IntervalV6 { start: start.to_be_bytes(), node: node.into() })
                .collect(),
            node_of,
        }
    }
}

/// Ends the networks that do not reach `position` (`None`: all of them); after each, the next wider one
/// is in force again.
fn close(
    open: &mut Vec<(u128, u32)>,
    position: Option<u128>,
    cuts: &mut Vec<(u128, u32)>,
    v6: bool,
) {
    let top = if v6 { u128::MAX } else { u128::from(u32::MAX) };
    let ended = |last: u128| position.is_none_or(|position| last < position);
    while let Some((last, _)) = open.last().copied().filter(|(last, _)| ended(*last)) {
        open.pop();
        if last < top {
            cut(cuts, last + 1, open.last().map_or(ANY, |(_, node)| *node));
        }
    }
}

fn cut(cuts: &mut Vec<(u128, u32)>, start: u128, node: u32) {
    match cuts.last_mut() {
        Some(last) if last.0 == start => last.1 = node,
        _ => cuts.push((start, node)),
    }
}

/// An address as a number, in its own family.
pub(crate) fn key(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nested, adjacent and extreme networks: each address must find what a linear search finds.
    #[test]
    fn chains_agree_with_a_linear_search() {
        let texts = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.1.2.3/32",
            "10.1.3.0/24",
            "10.255.255.255/32",
            "255.255.255.255/32",
            "224.0.0.0/4",
            "0.0.0.0/32",
            "::/0",
            "::/128",
            "fd00::/8",
            "fd00:1::/32",
            "ffff::/16",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        ];
        for skip in 0..=texts.len() {
            let nets: Vec<IpNet> = texts
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != skip)
                .map(|(_, t)| t.parse().expect("net"))
                .collect();
            let mut builder = NetsBuilder::default();
            for net in &nets {
                builder.number(*net);
            }
            let layout = builder.finish();
            let table = Nets { nodes: &layout.nodes, v4: &layout.v4, v6: &layout.v6 };
            let probes = nets.iter().flat_map(|net| {
                let (a, b) = (key(net.network()), key(net.broadcast()));
                [a, b, a.wrapping_sub(1), b.wrapping_add(1)].map(|k| match net {
                    IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(k as u32)),
                    IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(k)),
                })
            });
            for ip in probes {
                let mut expected: Vec<IpNet> =
                    nets.iter().copied().filter(|net| net.contains(&ip)).collect();
                expected.sort_by_key(|net| std::cmp::Reverse(net.prefix_len()));
                let found: Vec<IpNet> = table
                    .chain(table.narrowest(ip))
                    .filter_map(|node| table.network(node))
                    .collect();
                assert_eq!(found, expected, "{ip} without {skip}");
            }
        }
    }

    #[test]
    fn no_networks_hold_nothing() {
        let layout = NetsBuilder::default().finish();
        let table = Nets { nodes: &layout.nodes, v4: &layout.v4, v6: &layout.v6 };
        for ip in ["1.2.3.4", "::1"] {
            assert_eq!(table.narrowest(ip.parse().expect("ip")), ANY);
        }
        assert_eq!(table.chain(ANY).collect::<Vec<_>>(), [ANY]);
    }
}
