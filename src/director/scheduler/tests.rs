use super::*;
use crate::director::service::{ForwardMethod, Weight};
use std::net::Ipv4Addr;

mod hashing;
mod locality;

/// The default tunables, for as long as anybody asks.
pub(super) static TUNABLES: std::sync::LazyLock<Tunables> = std::sync::LazyLock::new(Tunables::default);

/// An arrival from wherever, where that does not matter.
pub(super) fn someone() -> Arrival<'static> {
    from("192.0.2.1:4242")
}

/// An arrival from `client`.
fn from(client: &str) -> Arrival<'static> {
    Arrival {
        now: Time::ZERO,
        client: client.parse().unwrap(),
        destination: Ipv4Addr::new(10, 0, 0, 100).into(),
        flags: SchedulerFlags::default(),
        tunables: &TUNABLES,
    }
}

/// A service's list as the kernel keeps it, newest first, with the scheduler told of every change.
pub(super) struct Service {
    pub(super) servers: Vec<Arc<RealServer>>,
    scheduler: Box<dyn Scheduler>,
}

impl Service {
    /// Servers 1, 2, ... with these weights, added in this order, at 10.3.0.1:80, 10.3.0.2:80, ...
    pub(super) fn new(kind: SchedulerKind, weights: &[u32]) -> Service {
        let mut service = Service { servers: Vec::new(), scheduler: build(kind, 7) };
        for (id, &weight) in (1..).zip(weights) {
            service.add(id, weight);
        }
        service
    }

    fn add(&mut self, id: u64, weight: u32) {
        let address = Ipv4Addr::from(0x0a03_0000 | id as u32).into();
        let weight = Weight::new(weight).unwrap();
        let server = RealServer::new(ServerId(id), address, 80, ForwardMethod::Nat, weight);
        self.add_again(Arc::new(server));
    }

    fn add_again(&mut self, server: Arc<RealServer>) {
        server.set_available(true);
        self.servers.insert(0, server);
        self.scheduler.on_added(&self.servers);
    }

    pub(super) fn position(&self, id: u64) -> usize {
        self.servers.iter().position(|server| server.id == ServerId(id)).unwrap()
    }

    fn server(&self, id: u64) -> &RealServer {
        &self.servers[self.position(id)]
    }

    fn remove(&mut self, id: u64) -> Arc<RealServer> {
        let position = self.position(id);
        let removed = self.servers.remove(position);
        removed.set_available(false);
        self.scheduler.on_removed(ServerId(id), position, &self.servers);
        removed
    }

    /// Sets a weight without telling the scheduler.
    pub(super) fn set_weight(&self, id: u64, weight: u32) {
        self.server(id).set_weight(Weight::new(weight).unwrap());
    }

    fn edit(&mut self, id: u64, weight: u32) {
        self.set_weight(id, weight);
        self.scheduler.on_changed(&self.servers);
    }

    /// Has so many connections be active on a server.
    fn load(&self, id: u64, active: u32) {
        (0..active).for_each(|_| self.server(id).bind_connection(true));
    }

    fn choose(&mut self, arrival: &Arrival<'_>) -> Option<u64> {
        self.scheduler.schedule(&self.servers, arrival).map(|server| server.id.0)
    }

    fn pick(&mut self) -> Option<u64> {
        self.choose(&someone())
    }

    fn picks(&mut self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.pick().expect("an eligible server")).collect()
    }

    /// Choices whose connections stay and are active, each from another client to another destination.
    fn connections(&mut self, count: usize) -> Vec<u64> {
        let connect = |number| {
            let arrival = Arrival {
                client: (Ipv4Addr::from(0xc000_0200 + number), 4242).into(),
                destination: Ipv4Addr::from(0xc633_6400 + number).into(),
                ..someone()
            };
            let id = self.choose(&arrival).expect("an eligible server");
            self.server(id).bind_connection(true);
            id
        };
        (0..count as u32).map(connect).collect()
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
        each(|kind| assert_eq!(build(kind, 0).name(), kind.name()));
    }

    #[test]
    fn chooses_nothing_where_nothing_is_eligible() {
        each(|kind| {
            assert_eq!(Service::new(kind, &[]).pick(), None, "{kind}, empty");
            let mut service = Service::new(kind, &[0, 0, 0]);
            assert_eq!(service.pick(), None, "{kind}, weights 0");
            (1..=3).for_each(|id| service.edit(id, 1));
            assert!(service.pick().is_some(), "{kind}, all recovered");
            (1..=3).for_each(|id| service.edit(id, 0));
            assert_eq!(service.pick(), None, "{kind}, all 0 again");
            (1..=3).for_each(|id| service.edit(id, 1));
            (1..=3).for_each(|id| drop(service.remove(id)));
            assert_eq!(service.pick(), None, "{kind}, all gone");
        });
    }

    /// Whether a scheduler leaves clients without a server whose bucket has none that is eligible.
    fn may_refuse(kind: SchedulerKind) -> bool {
        matches!(kind, SchedulerKind::Dh | SchedulerKind::Sh)
    }

    #[test]
    fn chooses_the_only_eligible_server() {
        each(|kind| {
            for weight in [1, 7, Weight::MAX] {
                let mut service = Service::new(kind, &[0, weight, 0, 0]);
                if kind == SchedulerKind::Ovf && weight < 20 {
                    assert_eq!(
                        service.connections(weight as usize + 1),
                        vec![2; weight as usize + 1],
                        "{kind}"
                    );
                    assert_eq!(service.pick(), None, "{kind}, weight {weight}");
                } else if !may_refuse(kind) {
                    assert_eq!(service.connections(20), [2; 20], "{kind}, weight {weight}");
                }
            }
        });
    }

    #[test]
    fn is_deterministic() {
        each(|kind| {
            let run = || Service::new(kind, &[300, 100, 50, 400, 100, 500]).connections(200);
            assert_eq!(run(), run(), "{kind}");
        });
    }

    #[test]
    fn gives_heavier_servers_more_or_all_the_same() {
        each(|kind| {
            let picks = Service::new(kind, &[10_000, 20_000, 40_000]).connections(7000);
            let counts = [1, 2, 3].map(|id| count(&picks, id));
            let (expected, tolerance) = match kind {
                SchedulerKind::Wrr => ([1000, 2000, 4000], 0),
                SchedulerKind::Wlc
                | SchedulerKind::Sed
                | SchedulerKind::Nq
                | SchedulerKind::Feedback
                | SchedulerKind::Lblc
                | SchedulerKind::Lblcr => ([1000, 2000, 4000], 2),
                SchedulerKind::Twos => ([1000, 2000, 4000], 25),
                SchedulerKind::Fo | SchedulerKind::Ovf => ([0, 0, 7000], 0),
                SchedulerKind::Rr | SchedulerKind::Lc => ([2333; 3], 1),
                SchedulerKind::Dh => ([2333; 3], 50),
                // A run of one server is longer than the table.
                SchedulerKind::Sh => ([0, 0, 7000], 0),
                SchedulerKind::Mh | SchedulerKind::Wrandom => ([1000, 2000, 4000], 150),
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
                assert!(service.scheduler.schedule(servers, &someone()).is_some(), "{kind}");
            }
            service.add(4, Weight::MAX);
            for _ in 0..10 {
                let chosen = service.scheduler.schedule(&before, &someone());
                assert!(chosen.is_some(), "{kind}, not knowing server 4");
            }
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

    // UDP never is active. Observed on a kernel.
    #[test]
    fn sed_and_nq_go_by_active_connections_alone() {
        let inactive = |kind, weights: &[u32]| {
            let mut service = Service::new(kind, weights);
            let mut connect = || {
                let id = service.pick().unwrap();
                service.server(id).bind_connection(false);
                id
            };
            [(); 4].map(|()| connect())
        };
        assert_eq!(inactive(SchedulerKind::Sed, &[1, 3, 3, 2]), [3; 4]);
        assert_eq!(inactive(SchedulerKind::Nq, &[1, 3, 3, 2]), [4; 4]);
        assert_eq!(inactive(SchedulerKind::Nq, &[1, 3, 3, 0]), [3; 4]);
        assert_eq!(Service::new(SchedulerKind::Sed, &[1, 4, 2]).connections(7), [2, 3, 2, 2, 3, 2, 1]);
        assert_eq!(Service::new(SchedulerKind::Nq, &[1, 4, 2]).connections(7), [3, 2, 1, 2, 2, 3, 2]);
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

mod feedback {
    use super::*;
    use crate::director::service::{Factor, Feedback, Load, LoadSource};
    use std::time::Duration;

    /// Has a server report at the time 0, and get this factor for three seconds.
    fn report(service: &Service, id: u64, factor: f64) {
        let source = LoadSource::File("/run/load/{address}".to_owned());
        let feedback = Feedback { source, interval: Duration::from_secs(1) };
        let reported = &service.server(id).reported;
        reported.note(Load::new(1.0).unwrap(), &feedback, Time::ZERO);
        reported.set_factor(Factor::nearest(factor));
    }

    #[test]
    fn connections_are_shared_by_weights_times_factors() {
        let mut service = Service::new(SchedulerKind::Feedback, &[2, 1, 1]);
        report(&service, 1, 0.5);
        report(&service, 2, 2.0);
        let picks = service.connections(400);
        assert_eq!([1, 2, 3].map(|id| count(&picks, id)), [100, 200, 100]);
    }

    #[test]
    fn reports_count_until_they_are_old() {
        let late = |now| Arrival { now: Time::from_millis(now), ..someone() };
        let mut service = Service::new(SchedulerKind::Feedback, &[1, 1]);
        report(&service, 2, 0.125);
        service.load(1, 3);
        service.load(2, 1);
        assert_eq!(service.choose(&late(2_999)), Some(1));
        assert_eq!(service.choose(&late(3_000)), Some(2), "as wlc");
    }

    #[test]
    fn weight_0_stays_0_and_a_full_server_is_full() {
        let mut service = Service::new(SchedulerKind::Feedback, &[1, 0, 1]);
        (1..=3).for_each(|id| report(&service, id, 2.0));
        service.server(3).set_thresholds(crate::director::service::Thresholds { upper: 1, lower: 0 });
        assert_eq!(service.connections(5), [3, 1, 1, 1, 1]);
        assert_eq!(service.server(2).effective_weight(Time::ZERO), 0);
    }

    #[test]
    fn the_largest_weights_are_compared_without_overflow() {
        let mut service = Service::new(SchedulerKind::Feedback, &[Weight::MAX, Weight::MAX - 1]);
        (1..=2).for_each(|id| report(&service, id, 2.0));
        service.servers.iter().for_each(|server| server.unbind_connection(true));
        assert_eq!(service.pick(), Some(1));
    }
}

mod by_weight {
    use super::*;

    // Observed on a kernel.
    #[test]
    fn fo_takes_the_heaviest_and_of_several_the_newest() {
        let mut service = Service::new(SchedulerKind::Fo, &[5, 5, 3]);
        assert_eq!(service.connections(3), [2; 3]);
        service.edit(2, 0);
        assert_eq!(service.pick(), Some(1));
        service.edit(3, 6);
        assert_eq!(service.pick(), Some(3));
    }

    #[test]
    fn ovf_goes_on_to_the_next_once_there_is_one_more_than_the_weight() {
        let mut service = Service::new(SchedulerKind::Ovf, &[1, 3, 2]);
        assert_eq!(service.connections(9), [2, 2, 2, 2, 3, 3, 3, 1, 1]);
        assert_eq!(service.pick(), None);
        service.server(3).unbind_connection(true);
        assert_eq!(service.pick(), Some(3));
    }
}

mod random {
    use super::*;

    /// Pearson's statistic of `picks` against chances in proportion to `shares`.
    fn chi_square(picks: &[u64], shares: &[(u64, f64)]) -> f64 {
        let total: f64 = shares.iter().map(|(_, share)| share).sum();
        let of = |&(id, share): &(u64, f64)| {
            let expected = picks.len() as f64 * share / total;
            (count(picks, id) as f64 - expected).powi(2) / expected
        };
        shares.iter().map(of).sum()
    }

    /// Nine degrees of freedom: a source that is as it should be stays below in 9,999 of 10,000 runs.
    const NINE: f64 = 33.7;
    /// The same for two.
    const TWO: f64 = 18.4;

    fn squares() -> Vec<u32> {
        (1..=10).map(|weight| weight * weight).collect()
    }

    fn shares(of: impl Fn(u64) -> f64) -> Vec<(u64, f64)> {
        (1..=10).map(|id| (id, of(id))).collect()
    }

    // A constant source reaches 180,000, one that goes by the weights 15,000.
    #[test]
    fn random_is_uniform_whatever_the_weights() {
        let picks = Service::new(SchedulerKind::Random, &squares()).picks(20_000);
        let statistic = chi_square(&picks, &shares(|_| 1.0));
        assert!(statistic < NINE, "{statistic}");
    }

    // Three of a hundred that are not full: most choices go through all of them.
    #[test]
    fn random_is_uniform_where_few_are_eligible() {
        let eligible = [4, 5, 90];
        let mut service = Service::new(SchedulerKind::Random, &[1; 100]);
        fill_all_but(&service, &eligible);
        let picks = service.picks(9_000);
        let statistic = chi_square(&picks, &eligible.map(|id| (id, 1.0)));
        assert!(statistic < TWO, "{statistic}");
    }

    fn fill_all_but(service: &Service, spared: &[u64]) {
        for server in service.servers.iter().filter(|server| !spared.contains(&server.id.0)) {
            server.set_thresholds(crate::director::service::Thresholds { upper: 1, lower: 1 });
            server.bind_connection(false);
        }
    }

    // A uniform source reaches 40,000.
    #[test]
    fn wrandom_goes_by_the_weights() {
        let mut service = Service::new(SchedulerKind::Wrandom, &squares());
        let by_square = shares(|id| (id * id) as f64);
        let statistic = chi_square(&service.picks(40_000), &by_square);
        assert!(statistic < NINE, "{statistic}");
        service.edit(3, 400);
        let edited = shares(|id| if id == 3 { 400.0 } else { (id * id) as f64 });
        let statistic = chi_square(&service.picks(40_000), &edited);
        assert!(statistic < NINE, "{statistic}, after an edit");
    }

    #[test]
    fn wrandom_goes_by_the_weights_where_few_are_eligible() {
        let mut weights = [50; 100];
        weights[3] = 1;
        weights[4] = 2;
        weights[89] = 3;
        let mut service = Service::new(SchedulerKind::Wrandom, &weights);
        fill_all_but(&service, &[4, 5, 90]);
        let picks = service.picks(9_000);
        let statistic = chi_square(&picks, &[(4, 1.0), (5, 2.0), (90, 3.0)]);
        assert!(statistic < TWO, "{statistic}");
    }

    // Whatever the weights, the table says exactly what they say: no chance is lost in rounding.
    #[test]
    fn wrandom_has_no_rounding_at_the_largest_weights() {
        let mut service = Service::new(SchedulerKind::Wrandom, &[Weight::MAX, 1, Weight::MAX]);
        let picks = service.picks(10_000);
        assert_eq!(count(&picks, 2), 0, "the chance is one in four thousand million");
        assert!(count(&picks, 1).abs_diff(5_000) < 200, "{} (four standard deviations)", count(&picks, 1));
    }

    // Without load it is the first draw, where the first server of the list has a chance more than its weight.
    #[test]
    fn twos_draws_by_weight_and_the_first_has_one_chance_more() {
        let mut service = Service::new(SchedulerKind::Twos, &[1, 1, 1]);
        let picks = service.picks(20_000);
        let statistic = chi_square(&picks, &[(3, 2.0), (2, 1.0), (1, 1.0)]);
        assert!(statistic < TWO, "{statistic}");
        let mut service = Service::new(SchedulerKind::Twos, &squares());
        let by_square = shares(|id| (id * id) as f64 + if id == 10 { 1.0 } else { 0.0 });
        let statistic = chi_square(&service.picks(40_000), &by_square);
        assert!(statistic < NINE, "{statistic}");
    }

    // Of three servers with one chance each and one more for the first, the busiest (the first) is chosen only if both
    // draws fall on it: 4 in 16; of the others, the idle one unless no draw falls on it: 1 - 9/16.
    #[test]
    fn twos_takes_the_less_loaded_of_two() {
        let mut service = Service::new(SchedulerKind::Twos, &[1, 1, 1]);
        service.load(3, 5);
        service.load(2, 2);
        let picks = service.picks(20_000);
        let statistic = chi_square(&picks, &[(3, 4.0), (2, 5.0), (1, 7.0)]);
        assert!(statistic < TWO, "{statistic}");
    }

    #[test]
    fn the_seed_decides() {
        for kind in [SchedulerKind::Random, SchedulerKind::Wrandom, SchedulerKind::Twos] {
            let mut service = Service::new(kind, &[1; 10]);
            let first = service.picks(50);
            let mut with_seed = |seed| {
                service.scheduler = build(kind, seed);
                service.scheduler.on_changed(&service.servers);
                service.picks(50)
            };
            assert_ne!(with_seed(8), first, "{kind}");
            assert_eq!(with_seed(7), first, "{kind}");
        }
    }
}
