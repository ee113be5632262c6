//! dh, sh and mh.

use super::*;
use proptest::collection::btree_map;
use proptest::prelude::*;

/// What the clients (of dh, the destinations) 192.0.2.1 to 192.0.2.24 get.
fn choices(service: &mut Service, flags: SchedulerFlags) -> [u64; 24] {
    std::array::from_fn(|n| {
        let address = Ipv4Addr::new(192, 0, 2, n as u8 + 1);
        let arrival =
            Arrival { client: (address, 4242).into(), destination: address.into(), flags, ..someone() };
        service.choose(&arrival).unwrap_or(0)
    })
}

const NONE: [SchedulerFlag; 0] = [];

fn flags(flags: impl IntoIterator<Item = SchedulerFlag>) -> SchedulerFlags {
    flags.into_iter().collect()
}

// What a model said that agreed with a kernel.
#[test]
fn choices_are_those_of_the_kernel() {
    for (kind, expected) in [
        (SchedulerKind::Dh, [1, 2, 3, 2, 1, 3, 1, 2, 1, 3, 2, 3, 1, 3, 2, 3, 2, 3, 3, 1, 2, 1, 2, 1]),
        (SchedulerKind::Sh, [2, 1, 3, 1, 1, 1, 1, 3, 1, 3, 1, 3, 2, 3, 3, 1, 3, 1, 3, 2, 1, 2, 1, 1]),
        (SchedulerKind::Mh, [1, 3, 3, 3, 1, 1, 3, 3, 3, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 2, 1, 3, 3, 2]),
    ] {
        let mut service = Service::new(kind, &[3, 1, 2]);
        assert_eq!(choices(&mut service, flags(NONE)), expected, "{kind}");
    }
}

#[test]
fn dh_does_not_heed_weights_but_0() {
    let mut service = Service::new(SchedulerKind::Dh, &[3, 1, 2]);
    let before = choices(&mut service, flags(NONE));
    service.edit(1, 9);
    assert_eq!(choices(&mut service, flags(NONE)), before);
    service.edit(1, 0);
    let without_1 = before.map(|id| if id == 1 { 0 } else { id });
    assert_eq!(choices(&mut service, flags(NONE)), without_1, "nobody stands in");
}

#[test]
fn clients_of_a_server_of_weight_0_are_refused_or_go_elsewhere_and_others_stay() {
    for (kind, fallback) in
        [(SchedulerKind::Sh, SchedulerFlag::ShFallback), (SchedulerKind::Mh, SchedulerFlag::MhFallback)]
    {
        let mut service = Service::new(kind, &[4, 4, 4, 4]);
        let before = choices(&mut service, flags(NONE));
        assert_eq!(choices(&mut service, flags([fallback])), before, "{kind}: nobody needs it");
        // A weight of 0 leaves the server one bucket a round of sh's table, so that it is another table.
        service.set_weight(2, 0);
        let refused = before.map(|id| if id == 2 { 0 } else { id });
        assert_eq!(choices(&mut service, flags(NONE)), refused, "{kind}");
        let elsewhere = choices(&mut service, flags([fallback]));
        for (now, before) in elsewhere.into_iter().zip(before) {
            assert!(
                if before == 2 { ![0, 2].contains(&now) } else { now == before },
                "{kind}: {elsewhere:?}"
            );
        }
    }
}

#[test]
fn the_port_counts_if_the_flag_says_so() {
    for (kind, port) in
        [(SchedulerKind::Sh, SchedulerFlag::ShPort), (SchedulerKind::Mh, SchedulerFlag::MhPort)]
    {
        let mut service = Service::new(kind, &[1, 1, 1]);
        let mut servers = |flags: SchedulerFlags| {
            let mut servers: Vec<u64> = (1..=200)
                .map(|port| Arrival { client: ([192, 0, 2, 1], port).into(), flags, ..someone() })
                .map(|arrival| service.choose(&arrival).unwrap())
                .collect();
            servers.sort_unstable();
            servers.dedup();
            servers.len()
        };
        assert_eq!(servers(flags(NONE)), 1, "{kind}");
        assert_eq!(servers(flags([port])), 3, "{kind}");
    }
}

// Counted in the table that the kernel's model built.
#[test]
fn mh_shares_its_buckets_by_weight() {
    let servers = Service::new(SchedulerKind::Mh, &[3, 1, 2]).servers;
    let mut mh = mh::Mh::default();
    mh.on_changed(&servers);
    let owners: Vec<u64> = mh.owners().map(|server| server.id.0).collect();
    assert_eq!([1, 2, 3].map(|id| count(&owners, id)), [2046, 682, 1365]);
    let first =
        [3, 3, 2, 1, 1, 1, 3, 3, 2, 3, 3, 3, 2, 1, 1, 1, 1, 3, 3, 3, 3, 2, 3, 1, 1, 1, 2, 1, 1, 3, 3, 3];
    assert_eq!(owners[..32], first);
}

#[test]
fn mh_keeps_the_smallest_share_of_large_weights() {
    let servers = Service::new(SchedulerKind::Mh, &[1, 1000]).servers;
    let mut mh = mh::Mh::default();
    mh.on_changed(&servers);
    let owners: Vec<u64> = mh.owners().map(|server| server.id.0).collect();
    // 1000 has 10 bits, of which 6 are left: 62 turns to 1, in which the newest server comes first.
    assert_eq!(count(&owners, 1), 4093 / 63);
}

#[test]
fn mh_remembers_the_weight_of_a_server_that_got_none() {
    let mut service = Service::new(SchedulerKind::Mh, &[3, 1, 2, 100]);
    let owners = |service: &Service| {
        let mut mh = mh::Mh::default();
        mh.on_changed(&service.servers);
        mh.owners().map(|server| server.id.0).collect::<Vec<_>>()
    };
    let before = owners(&service);
    service.edit(4, 0);
    assert_eq!(owners(&service), before, "an edit to 0");
    service.edit(4, 0);
    assert_eq!(owners(&service), before, "another one");
    let removed = service.remove(4);
    assert!(!owners(&service).contains(&4));
    removed.reset_weight(Weight::new(0).unwrap());
    service.add_again(removed);
    assert!(!owners(&service).contains(&4), "it has come back with 0");
    service.edit(4, 100);
    assert_eq!(owners(&service), before);
    for id in 1..=4 {
        drop(service.remove(id));
    }
    service.add(5, 0);
    assert!(owners(&service).is_empty(), "nobody ever had a weight");
    assert_eq!(service.choose(&Arrival { flags: flags([SchedulerFlag::MhFallback]), ..someone() }), None);
}

#[test]
fn mh_stays_as_it_was_with_more_servers_than_buckets() {
    let mut service = Service::new(SchedulerKind::Mh, &[1; 4]);
    let mut mh = mh::Mh::default();
    mh.on_changed(&service.servers);
    let before: Vec<u64> = mh.owners().map(|server| server.id.0).collect();
    let server = Arc::clone(&service.servers[0]);
    service.servers.resize(mh::BUCKETS + 1, server);
    mh.on_changed(&service.servers);
    assert_eq!(mh.owners().map(|server| server.id.0).collect::<Vec<_>>(), before);
    service.servers.truncate(mh::BUCKETS);
    mh.on_changed(&service.servers);
    assert_eq!(mh.owners().count(), mh::BUCKETS);
}

/// Servers with these addresses and weights, in some order.
fn servers() -> impl Strategy<Value = Vec<Arc<RealServer>>> {
    (btree_map(0x0a00_0000_u32..0x0b00_0000, 1_u32..=5, 2..=100), any::<bool>()).prop_map(
        |(servers, equal)| {
            let server = |(id, (address, weight))| {
                let weight = Weight::new(if equal { 1 } else { weight }).unwrap();
                let address = Ipv4Addr::from(address).into();
                Arc::new(RealServer::new(ServerId(id), address, 80, ForwardMethod::Nat, weight))
            };
            (1..).zip(servers).map(server).collect()
        },
    )
}

/// The server of each of 2^16 clients, 0 if none.
fn all_choices(mh: &mut mh::Mh, flags: SchedulerFlags) -> Vec<u64> {
    (0..1 << 16)
        .map(|number| {
            let client = (Ipv4Addr::from(0x6440_0000_u32 + number), 4242).into();
            mh.schedule(&[], &Arrival { client, flags, ..someone() }).map_or(0, |server| server.id.0)
        })
        .collect()
}

fn share(of: u64, owners: &[u64]) -> f64 {
    count(owners, of) as f64 / owners.len() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    // A server that is drained: set to weight 0, not removed. Five standard deviations are 1 %.
    #[test]
    fn mh_moves_the_clients_of_a_server_without_weight_alone(
        servers in servers(), which in any::<prop::sample::Index>()
    ) {
        let mut mh = mh::Mh::default();
        mh.on_changed(&servers);
        let flags = flags([SchedulerFlag::MhFallback]);
        let before = all_choices(&mut mh, flags);
        let drained = which.get(&servers);
        let total: u32 = servers.iter().map(|server| server.weight().get()).sum();
        let fair = f64::from(drained.weight().get()) / f64::from(total);
        drained.set_weight(Weight::new(0).unwrap());
        mh.on_changed(&servers);
        for (before, after) in before.iter().zip(all_choices(&mut mh, flags)) {
            if *before == drained.id.0 {
                prop_assert!(after != 0 && after != *before);
            } else {
                prop_assert_eq!(*before, after, "a client of a server that stays");
            }
        }
        let moved = share(drained.id.0, &before);
        prop_assert!(moved <= fair + 0.01, "{moved} of {fair}");
    }

    // With equal weights no two servers differ by more than one bucket; a table has no bucket without a server.
    #[test]
    fn mh_shares_its_buckets_evenly(servers in servers()) {
        let mut mh = mh::Mh::default();
        mh.on_changed(&servers);
        let owners: Vec<u64> = mh.owners().map(|server| server.id.0).collect();
        prop_assert_eq!(owners.len(), mh::BUCKETS);
        let weight = |server: &Arc<RealServer>| server.weight().get() as usize;
        let divisor = servers.iter().map(|server| server.weight().get()).fold(0, greatest_common_divisor) as usize;
        let total: usize = servers.iter().map(weight).sum::<usize>() / divisor;
        for server in &servers {
            let turns = weight(server) / divisor;
            let (least, most) = (mh::BUCKETS / total * turns, (mh::BUCKETS / total + 1) * turns);
            prop_assert!((least..=most).contains(&count(&owners, server.id.0)));
        }
    }
}

// A server that is removed: the others fill its buckets, and some of theirs change hands, as Maglev's do. There is no
// bound for a single set of servers: of several thousand, one has two servers that get into each other's way again and
// again.
#[test]
fn mh_moves_few_buckets_of_servers_that_stay_on_average() {
    const SETS: usize = 200;
    let mut rng = fastrand::Rng::with_seed(5);
    for (count, bound) in [(2, 0.0), (3, 0.4), (5, 0.8), (10, 1.3), (20, 1.8), (50, 2.6), (100, 3.2)] {
        let moved = |rng: &mut fastrand::Rng| {
            let mut servers: Vec<Arc<RealServer>> = (0..count)
                .map(|id| {
                    let address = Ipv4Addr::from(rng.u32(0x0a00_0000..0x0b00_0000)).into();
                    Arc::new(RealServer::new(
                        ServerId(id),
                        address,
                        80,
                        ForwardMethod::Nat,
                        Weight::default(),
                    ))
                })
                .collect();
            let mut mh = mh::Mh::default();
            mh.on_changed(&servers);
            let before: Vec<ServerId> = mh.owners().map(|server| server.id).collect();
            let removed = servers.remove(rng.usize(..servers.len()));
            mh.on_changed(&servers);
            let pairs = before.iter().zip(mh.owners());
            pairs.filter(|(before, after)| **before != removed.id && **before != after.id).count()
        };
        let total: usize = (0..SETS).map(|_| moved(&mut rng)).sum();
        let percent = 100.0 * total as f64 / (SETS * mh::BUCKETS) as f64;
        assert!(percent <= bound, "{count} servers: {percent} % on average");
    }
}
