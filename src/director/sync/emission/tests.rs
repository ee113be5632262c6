use super::*;
use crate::director::service::SyncThreshold;

const UDP: Subject = Subject::Connection(State::Udp);

fn tcp(state: TcpState) -> Subject {
    Subject::Connection(State::Tcp(state))
}

fn rules(packet: u32, period: u32, refresh: u32, retries: u8) -> Rules {
    let threshold = SyncThreshold { packet, period };
    Rules::of(&Tunables {
        sync_threshold: threshold,
        sync_refresh_period: refresh,
        sync_retries: retries,
        ..Tunables::default()
    })
}

/// An entry made at the beginning, which has a packet each `every` ms: the packets that a record follows.
fn due(rules: &Rules, subject: Subject, timeout_seconds: u64, every: u64, packets: u32) -> Vec<u32> {
    let start = Time::from_millis(1_000_001);
    let mut emission = Emission::new(start, Emission::default());
    let timeout = Duration::from_secs(timeout_seconds);
    (1..=packets)
        .filter(|&packet| {
            let now = start + Duration::from_millis(every) * packet;
            emission.is_due(rules, now, subject, timeout, packet)
        })
        .collect()
}

#[test]
fn records_follow_packets_by_threshold_period_and_refreshing() {
    for (what, rules, subject, timeout, every, packets, expected) in [
        ("the 3rd of each 50", rules(3, 50, 0, 0), UDP, 300, 100, 160, vec![3, 53, 103, 153]),
        ("60 packets are 2 records", rules(3, 50, 0, 0), UDP, 300, 100, 60, vec![3, 53]),
        ("the last of each 3", rules(0, 3, 0, 0), UDP, 300, 100, 10, vec![3, 6, 9]),
        ("each", rules(0, 1, 0, 0), UDP, 300, 100, 4, vec![1, 2, 3, 4]),
        ("once, without a period", rules(3, 0, 0, 0), UDP, 300, 100, 60, vec![3]),
        ("never, with nothing", rules(0, 0, 0, 0), UDP, 300, 100, 60, vec![]),
        ("templates: each packet", rules(3, 50, 0, 0), Subject::Template, 300, 100, 5, vec![1, 2, 3, 4, 5]),
        ("templates: once, without a period", rules(3, 0, 0, 0), Subject::Template, 300, 100, 60, vec![3]),
        // 4 s, an eighth of which is half a second.
        ("at first, and once more", rules(3, 0, 4, 1), UDP, 300, 100, 40, vec![1, 6]),
        // A count of repetitions stands in the end's last bits, and lacks at 4 s.
        ("again after the period", rules(3, 0, 4, 1), UDP, 300, 100, 90, vec![1, 6, 47, 52]),
        ("not repeated", rules(3, 0, 4, 0), UDP, 300, 100, 90, vec![1, 41, 81]),
        // For the same reason the third repetition lacks a tick at 3 s.
        ("thrice repeated", rules(3, 0, 8, 3), UDP, 300, 500, 16, vec![1, 3, 5, 8]),
        ("by both", rules(3, 5, 4, 0), UDP, 300, 1000, 20, vec![3, 8, 13, 18]),
        ("by both, sooner than the period", rules(3, 5, 9, 0), UDP, 300, 1000, 20, vec![3, 13]),
        (
            "a short timeout refreshes sooner, in 10 s",
            rules(3, 0, 1000, 0),
            UDP,
            12,
            1000,
            25,
            vec![1, 11, 21],
        ),
        ("or half the timeout", rules(3, 0, 1000, 0), UDP, 24, 1000, 30, vec![1, 13, 25]),
        ("templates are refreshed too", rules(3, 50, 4, 0), Subject::Template, 300, 1000, 10, vec![1, 5, 9]),
    ] {
        assert_eq!(due(&rules, subject, timeout, every, packets), expected, "{what}");
    }
}

/// `due` is asked at the first packet: nothing is old then, but the entry's end moved by its timeout.
#[test]
fn a_new_entry_is_told_at_once_where_only_time_counts() {
    assert_eq!(due(&rules(3, 0, 4, 0), UDP, 300, 1, 1), [1]);
    assert_eq!(due(&rules(3, 0, 4, 0), UDP, 2, 1, 1), [0; 0], "it ends sooner than records are refreshed");
}

#[test]
fn half_open_connections_are_not_told_of() {
    use SctpState as S;
    use TcpState as T;
    let told = [T::Established, T::FinWait, T::TimeWait, T::Close, T::CloseWait];
    for state in T_ALL {
        assert_eq!(is_told(State::Tcp(state)), told.contains(&state), "{state}");
    }
    let told = [S::Established, S::ShutdownSent, S::ShutdownReceived, S::ShutdownAckSent, S::Closed];
    for number in 0..14 {
        let state = State::Sctp(S::None).with_number(number).unwrap();
        assert_eq!(is_told(state), told.iter().any(|told| State::Sctp(*told) == state), "{state}");
    }
}

const T_ALL: [TcpState; 11] = [
    TcpState::None,
    TcpState::Established,
    TcpState::SynSent,
    TcpState::SynRecv,
    TcpState::FinWait,
    TcpState::TimeWait,
    TcpState::Close,
    TcpState::CloseWait,
    TcpState::LastAck,
    TcpState::Listen,
    TcpState::SynAck,
];

#[test]
fn changes_of_state_are_told_at_once_but_that_to_established() {
    use TcpState::{Close, CloseWait, Established, FinWait, SynRecv};
    let now = Time::from_millis(1_000_000);
    let rules = rules(3, 50, 0, 0);
    let mut emission = Emission::new(now, Emission::default());
    for (what, state, packet, expected) in [
        ("a SYN", SynRecv, 1, false),
        ("established, but not its turn", Established, 2, false),
        ("its turn", Established, 3, true),
        ("told", Established, 4, false),
        ("the client has closed", CloseWait, 5, true),
        ("told", CloseWait, 6, false),
        ("reset", Close, 7, true),
        ("open again, told with its turn only", Established, 8, false),
        ("closed again, which was told last", Close, 9, false),
        ("closed otherwise", FinWait, 10, true),
        ("its turn", FinWait, 53, true),
    ] {
        let timeout = Duration::from_secs(60);
        assert_eq!(emission.is_due(&rules, now, tcp(state), timeout, packet), expected, "{what}");
    }
    let mut emission = Emission::new(now, Emission::default());
    for (state, packet, expected) in [
        (SctpState::Established, 1, false),
        (SctpState::ShutdownReceived, 2, true),
        (SctpState::ShutdownAckSent, 2, true),
        (SctpState::ShutdownAckSent, 4, false),
        (SctpState::Closed, 5, true),
        (SctpState::Init, 53, false),
    ] {
        let subject = Subject::Connection(State::Sctp(state));
        let is_due = emission.is_due(&rules, now, subject, Duration::from_secs(60), packet);
        assert_eq!(is_due, expected, "{state}");
    }
}

/// What another director has told of is no news.
#[test]
fn what_a_backup_was_told_of_is_told_on_when_it_changes() {
    let now = Time::from_millis(1_000_000);
    let rules = rules(3, 50, 0, 0);
    let mut known = Emission::default();
    known.note_state(TcpState::FinWait as u8);
    let mut emission = Emission::new(now, known);
    let timeout = Duration::from_secs(120);
    assert!(!emission.is_due(&rules, now, tcp(TcpState::FinWait), timeout, 4));
    assert!(emission.is_due(&rules, now, tcp(TcpState::TimeWait), timeout, 5));
}

#[test]
fn ticks_go_round() {
    let day = Duration::from_secs(24 * 60 * 60);
    let rules = rules(3, 0, 100, 0);
    // 2^32 ticks of 4 ms are 198.8 days.
    let before = Time::ZERO + day * 198;
    let mut emission = Emission::new(before, Emission::default());
    let timeout = Duration::from_secs(300);
    let mut due = |days: u32| emission.is_due(&rules, before + day * days, UDP, timeout, 9);
    assert!(due(0));
    assert!(!due(0));
    assert!(due(1));
    assert!(due(2));
    assert!(!due(2));
}

#[test]
fn news_is_what_nobody_was_told_or_another_state() {
    use TcpState::{Established, FinWait};
    let now = Time::from_millis(1_000_000);
    let (rules, timeout) = (rules(0, 1, 0, 0), Duration::from_secs(60));
    for (first, other) in [(tcp(Established), tcp(FinWait)), (tcp(FinWait), tcp(Established))] {
        let mut emission = Emission::new(now, Emission::default());
        assert_eq!(emission.urgency(first), Urgency::News);
        assert!(emission.is_due(&rules, now, first, timeout, 1));
        assert_eq!([first, other].map(|it| emission.urgency(it)), [Urgency::Repeated, Urgency::News]);
    }
    for subject in [UDP, Subject::Template] {
        let mut emission = Emission::new(now, Emission::default());
        assert_eq!(emission.urgency(subject), Urgency::News);
        assert!(emission.is_due(&rules, now, subject, timeout, 1));
        assert_eq!(emission.urgency(subject), Urgency::Repeated);
    }
    let mut known = Emission::default();
    known.note_state(Established as u8);
    let known = Emission::new(now, known);
    assert_eq!([Established, FinWait].map(|it| known.urgency(tcp(it))), [Urgency::Repeated, Urgency::News]);
}
