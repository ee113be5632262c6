use super::*;
use crate::director::service::{ForwardMethod, Weight};
use std::net::{IpAddr, Ipv4Addr};

/// A service's list as the kernel keeps it, newest first, with the scheduler told of every change.
pub(super) struct Service {
    pub(super) servers: Vec<Arc<RealServer>>,
    scheduler: Box<dyn Scheduler>,
}

impl Service {
    /// Servers 1, 2, ... with these weights, added in this order.
    pub(super) fn new(kind: SchedulerKind, weights: &[u32]) -> Service {
        let mut service = Service { servers: Vec::new(), scheduler: build(kind, 7) };
        for (id, &weight) in (1..).zip(weights) {
            service.add(id, weight);
        }
        service
    }

    fn add(&mut self, id: u64, weight: u32) {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let weight = Weight::new(weight).unwrap();
        let server = RealServer::new(ServerId(id), address, 80, ForwardMethod::Nat, weight);
        self.servers.insert(0, Arc::new(server));
        self.scheduler.on_added(&self.servers);
    }

    fn position(&self, id: u64) -> usize {
        self.servers.iter().position(|server| server.id == ServerId(id)).unwrap()
    }

    fn remove(&mut self, id: u64) {
        let position = self.position(id);
        self.servers.remove(position);
        self.scheduler.on_removed(ServerId(id), position, &self.servers);
    }

    /// Sets a weight without telling the scheduler.
    pub(super) fn set_weight(&self, id: u64, weight: u32) {
        self.servers[self.position(id)].set_weight(Weight::new(weight).unwrap());
    }

    fn edit(&mut self, id: u64, weight: u32) {
        self.set_weight(id, weight);
        self.scheduler.on_changed(&self.servers);
    }

    fn pick(&mut self) -> Option<u64> {
        self.scheduler.schedule(&self.servers).map(|index| self.servers[index].id.0)
    }

    fn picks(&mut self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.pick().expect("an eligible server")).collect()
    }

    /// Choices whose connections stay and are active.
    fn connections(&mut self, count: usize) -> Vec<u64> {
        let connect = |_| {
            let id = self.pick().expect("an eligible server");
            self.servers[self.position(id)].bind_connection(true);
            id
        };
        (0..count).map(connect).collect()
    }
}

fn count(picks: &[u64], id: u64) -> usize {
    picks.iter().filter(|&&pick| pick == id).count()
}

mod every_scheduler {
    use super::*;

    fn each(check: impl Fn(SchedulerKind)) {
        SchedulerKind::ALL.iter().copied().for_each(check);
    }

    #[test]
    fn goes_by_its_name() {
        each(|kind| {
            assert_eq!(build(kind, 0).name(), kind.to_string());
            assert_eq!(kind.to_string().parse(), Ok(kind));
        });
        assert_eq!("sh".parse::<SchedulerKind>(), Err(UnknownScheduler));
        assert_eq!(SchedulerKind::default(), SchedulerKind::Wlc);
    }

    #[test]
    fn chooses_nothing_where_nothing_is_eligible() {
        each(|kind| {
            assert_eq!(Service::new(kind, &[]).pick(), None, "{kind}, empty");
            let mut service = Service::new(kind, &[0, 0, 0]);
            assert_eq!(service.pick(), None, "{kind}, weights 0");
            service.edit(2, 1);
            assert_eq!(service.pick(), Some(2), "{kind}, one recovered");
            service.edit(2, 0);
            assert_eq!(service.pick(), None, "{kind}, all 0 again");
        });
    }

    #[test]
    fn chooses_the_only_eligible_server() {
        each(|kind| {
            for weight in [1, 7, Weight::MAX] {
                let mut service = Service::new(kind, &[0, weight, 0, 0]);
                assert_eq!(service.connections(20), [2; 20], "{kind}, weight {weight}");
            }
        });
    }

    #[test]
    fn is_deterministic() {
        each(|kind| {
            let run = || Service::new(kind, &[3, 1, 0, 4, 1, 5]).connections(200);
            assert_eq!(run(), run(), "{kind}");
        });
    }

    #[test]
    fn gives_heavier_servers_more_or_all_the_same() {
        each(|kind| {
            let picks = Service::new(kind, &[1, 2, 4]).connections(7000);
            let counts = [1, 2, 3].map(|id| count(&picks, id));
            let (expected, tolerance) = match kind {
                SchedulerKind::Wrr => ([1000, 2000, 4000], 0),
                SchedulerKind::Wlc => ([1000, 2000, 4000], 2),
                SchedulerKind::Rr | SchedulerKind::Lc => ([2333; 3], 1),
                SchedulerKind::Random => ([2333; 3], 200),
            };
            for (count, expected) in counts.into_iter().zip(expected) {
                assert!(
                    count.abs_diff(expected) <= tolerance,
                    "{kind}: {counts:?}, expected about {expected}"
                );
            }
        });
    }

    #[test]
    fn chooses_from_lists_that_lag_behind() {
        each(|kind| {
            let mut service = Service::new(kind, &[2, 5, 9]);
            service.picks(2);
            let before = service.servers.clone();
            service.remove(3);
            for servers in [&before[..], &before[2..], &before[1..2]] {
                let chosen = service.scheduler.schedule(servers);
                assert!(chosen.is_some_and(|index| index < servers.len()), "{kind}: {chosen:?}");
            }
            service.add(4, Weight::MAX);
            for _ in 0..10 {
                assert!(service.scheduler.schedule(&before).is_some(), "{kind}, not knowing server 4");
            }
            assert_eq!(service.scheduler.schedule(&[]), None, "{kind}");
        });
    }
}

mod rr {
    use super::*;

    #[test]
    fn starts_with_the_newest() {
        assert_eq!(Service::new(SchedulerKind::Rr, &[1, 9, 1]).picks(6), [3, 2, 1, 3, 2, 1]);
    }

    #[test]
    fn the_successor_follows_a_removed_last_server() {
        let mut service = Service::new(SchedulerKind::Rr, &[1; 4]);
        assert_eq!(service.picks(2), [4, 3]);
        service.remove(3);
        assert_eq!(service.picks(2), [2, 1]);
        service.add(5, 1);
        assert_eq!(service.picks(6), [5, 4, 2, 1, 5, 4]);
        service.edit(2, 0);
        assert_eq!(service.picks(4), [1, 5, 4, 1]);
    }

    #[test]
    fn a_removed_head_leaves_the_pointer_before_the_list() {
        let mut service = Service::new(SchedulerKind::Rr, &[1; 3]);
        assert_eq!(service.picks(1), [3]);
        service.remove(3);
        service.add(4, 1);
        assert_eq!(service.picks(3), [4, 2, 1]);
    }

    #[test]
    fn removing_another_server_does_not_move_the_pointer() {
        let mut service = Service::new(SchedulerKind::Rr, &[1; 4]);
        assert_eq!(service.picks(2), [4, 3]);
        service.remove(4);
        assert_eq!(service.picks(3), [2, 1, 3]);
    }

    #[test]
    fn the_last_server_is_chosen_again_if_it_is_the_only_one() {
        let mut service = Service::new(SchedulerKind::Rr, &[1; 3]);
        assert_eq!(service.picks(2), [3, 2]);
        service.edit(1, 0);
        service.edit(3, 0);
        assert_eq!(service.picks(2), [2, 2]);
    }
}

mod wrr {
    use super::*;

    // Observed on a kernel.
    #[test]
    fn cycles_by_weight() {
        let picks = |weights: &[u32], count| Service::new(SchedulerKind::Wrr, weights).picks(count);
        assert_eq!(picks(&[4, 2, 1], 14), [3, 2, 1, 1, 1, 2, 1, 3, 2, 1, 1, 1, 2, 1]);
        assert_eq!(picks(&[3, 3, 1], 10), [3, 2, 1, 2, 1, 2, 1, 3, 2, 1]);
    }

    // Observed on a kernel.
    #[test]
    fn an_edit_starts_over_at_the_head() {
        let mut service = Service::new(SchedulerKind::Wrr, &[6, 4, 2]);
        assert_eq!(service.picks(14), [3, 2, 1, 1, 2, 1, 3, 2, 1, 1, 2, 1, 3, 2]);
        service.edit(2, 8);
        assert_eq!(service.picks(18), [3, 2, 1, 2, 2, 1, 2, 1, 3, 2, 1, 2, 2, 1, 2, 1, 3, 2]);
    }

    // Weight 5 alone: step 5, top 1, current 1. With 3 beside it: step 1, top 5, current stays 1, so the first pass
    // takes both; then 5 and 4 take the heavy one, 3 to 1 take both.
    #[test]
    fn the_current_weight_is_kept_while_servers_are_added() {
        let mut service = Service::new(SchedulerKind::Wrr, &[5, 3]);
        assert_eq!(service.picks(10), [2, 1, 1, 1, 2, 1, 2, 1, 2, 1]);
    }

    // 6, 3 and 1: current weight 1 (3 2 1), 6, 5, 4 (1 each), 3 (2). Without server 3: step 3, top 4; current weight
    // 3 becomes 3 / 3 * 3 + 1 = 4: server 1 alone, then both at 1. At 3 server 2 would have come first.
    #[test]
    fn the_current_weight_is_rounded_to_the_new_step() {
        let mut service = Service::new(SchedulerKind::Wrr, &[6, 3, 1]);
        assert_eq!(service.picks(7), [3, 2, 1, 1, 1, 1, 2]);
        service.remove(3);
        assert_eq!(service.picks(6), [1, 2, 1, 1, 2, 1]);
    }

    // Weights 2 and 2: step 2, top 1. Server 2 chosen, then nothing eligible: the rest of the pass, a new cycle with
    // `stop` at server 2. The search ends there, so the next choice is its successor.
    #[test]
    fn a_vain_search_stops_at_the_server_it_began_after() {
        let mut service = Service::new(SchedulerKind::Wrr, &[2, 2]);
        assert_eq!(service.picks(1), [2]);
        service.set_weight(1, 0);
        service.set_weight(2, 0);
        assert_eq!(service.pick(), None);
        assert_eq!(service.pick(), None);
        service.set_weight(1, 2);
        service.set_weight(2, 2);
        assert_eq!(service.picks(2), [1, 2]);
    }

    // Weights 3, 3, 1 at current weight 3 with server 2 chosen: the search goes on through the passes at 2 and 1 and
    // ends at the head, not at server 2.
    #[test]
    fn a_vain_search_down_to_weight_1_ends_at_the_head() {
        let mut service = Service::new(SchedulerKind::Wrr, &[3, 3, 1]);
        assert_eq!(service.picks(4), [3, 2, 1, 2]);
        for id in 1..=3 {
            service.set_weight(id, 0);
        }
        assert_eq!(service.pick(), None);
        for id in 1..=3 {
            service.set_weight(id, 3);
        }
        assert_eq!(service.picks(3), [3, 2, 1]);
    }
}

mod least {
    use super::*;

    #[test]
    fn ties_go_to_the_newest() {
        assert_eq!(Service::new(SchedulerKind::Lc, &[1, 2, 1]).picks(2), [3, 3]);
        assert_eq!(Service::new(SchedulerKind::Wlc, &[1, 2, 1]).picks(2), [3, 3]);
        assert_eq!(Service::new(SchedulerKind::Lc, &[1, 2, 1]).connections(4), [3, 2, 1, 3]);
    }

    // Observed on a kernel, with UDP.
    #[test]
    fn wlc_with_inactive_connections() {
        let mut service = Service::new(SchedulerKind::Wlc, &[1, 2, 1]);
        let mut connect = || {
            let id = service.pick().unwrap();
            service.servers[service.position(id)].bind_connection(false);
            id
        };
        assert_eq!([(); 8].map(|()| connect()), [3, 2, 1, 2, 3, 2, 1, 2]);
    }

    #[test]
    fn an_active_connection_weighs_more_than_256_inactive_ones() {
        for kind in [SchedulerKind::Lc, SchedulerKind::Wlc] {
            let mut service = Service::new(kind, &[1, 1]);
            service.servers[service.position(1)].bind_connection(true);
            (0..256).for_each(|_| service.servers[service.position(2)].bind_connection(false));
            assert_eq!(service.pick(), Some(2), "{kind}");
            service.servers[service.position(2)].bind_connection(false);
            assert_eq!(service.pick(), Some(2), "{kind}, a tie at 257");
            service.servers[service.position(2)].bind_connection(false);
            assert_eq!(service.pick(), Some(1), "{kind}");
        }
    }

    // The counts wrap from 0 to 2^32 - 1, so the products have 71 bits.
    #[test]
    fn wlc_compares_without_overflow() {
        let mut service = Service::new(SchedulerKind::Wlc, &[Weight::MAX, Weight::MAX - 1]);
        service.servers.iter().for_each(|server| server.unbind_connection(true));
        assert!(service.servers.iter().all(|server| server.total_conns() == u32::MAX));
        assert_eq!(service.pick(), Some(1));
    }
}

mod random {
    use super::*;

    /// Pearson's statistic of `picks` against equal chances for `ids`.
    fn chi_square(picks: &[u64], ids: &[u64]) -> f64 {
        let expected = picks.len() as f64 / ids.len() as f64;
        ids.iter().map(|&id| (count(picks, id) as f64 - expected).powi(2) / expected).sum()
    }

    // A fair source stays below 33.7 (9 degrees of freedom) in 9,999 of 10,000 runs; a constant one reaches 180,000.
    #[test]
    fn is_uniform_whatever_the_weights() {
        let weights: Vec<u32> = (1..=10).map(|weight| weight * weight).collect();
        let picks = Service::new(SchedulerKind::Random, &weights).picks(20_000);
        let statistic = chi_square(&picks, &(1..=10).collect::<Vec<_>>());
        assert!(statistic < 33.7, "{statistic}");
    }

    // Three of a hundred eligible: most choices go through the whole list. 2 degrees of freedom, 18.4 for 9,999 of
    // 10,000.
    #[test]
    fn is_uniform_where_few_are_eligible() {
        let eligible = [4, 5, 90];
        let weights: Vec<u32> = (1..=100).map(|id| u32::from(eligible.contains(&id))).collect();
        let picks = Service::new(SchedulerKind::Random, &weights).picks(9_000);
        assert!(picks.iter().all(|pick| eligible.contains(pick)));
        let statistic = chi_square(&picks, &eligible);
        assert!(statistic < 18.4, "{statistic}");
    }

    #[test]
    fn the_seed_decides() {
        let mut service = Service::new(SchedulerKind::Random, &[1; 10]);
        let first = service.picks(50);
        service.scheduler = build(SchedulerKind::Random, 8);
        assert_ne!(service.picks(50), first);
        service.scheduler = build(SchedulerKind::Random, 7);
        assert_eq!(service.picks(50), first);
    }
}
