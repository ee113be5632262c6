//! Questions and answers without a network between them, and what befalls those that are not as they should be.

use super::super::resync::wire::{Arrival, Notice};
use super::super::seal::{Keys, Opener, Sealer, TRAILER, Unsealed};
use super::super::secrets::Secrets;
use super::answer::{Answerer, Question};
use super::tally::{Asked, Tally};
use crate::daemon::api::SyncTestPort;
use crate::director::Time;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;
use sync_proto::SyncId;

const GROUP: SyncId = SyncId(7);
const FIRST: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const SECOND: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff000102030405060708090a0b0c0d0e0f";
const TODAY: Duration = Duration::from_secs(1_700_000_000);
const PORT: NonZeroU16 = NonZeroU16::new(40_000).unwrap();
const ASKER: u32 = 1;
const BACKUP: u32 = 2;

fn secrets(keys: &[&str], required: bool) -> Secrets {
    Secrets { keys: Keys::read(&keys.join("\n")).expect("keys"), required }
}

fn from(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 9, last], 8848))
}

/// A question as its master sends it.
fn sent(master: Option<&Secrets>, token: u64) -> Vec<u8> {
    let trailer = if master.is_some() { TRAILER } else { 0 };
    let mut question = Notice::Question { port: PORT, token, asker: ASKER }.encode(GROUP, trailer);
    if let Some(Secrets { keys, .. }) = master {
        Sealer::new(TODAY).seal(keys, &mut question, TODAY);
    }
    question
}

/// What a backup that takes the datagram makes of it.
fn answered(answerer: &mut Answerer, backup: Option<&Secrets>, datagram: &[u8]) -> Option<Vec<u8>> {
    let Some(Notice::Question { port, token, asker }) = Notice::decode(datagram, GROUP) else {
        panic!("no question");
    };
    let opened = backup.and_then(|Secrets { keys, .. }| {
        Opener::default().open(keys, (from(1).ip(), 1), datagram, TODAY).ok()
    });
    let (key, lost) = (opened.map(|it| it.key), opened.map(|_| 3));
    let question = Question { datagram, from: from(1), port, token, asker, key, lost };
    let (answer, to) = answerer.answer(&question, backup, Time::ZERO, TODAY)?;
    assert_eq!(to, SocketAddr::from(([10, 0, 9, 1], 40_000)), "where it came from, at the port it names");
    assert!(answer.len() <= datagram.len(), "nobody gets more than was sent");
    Some(answer)
}

/// A test that asks by these ports.
fn tally(master: Option<&Secrets>, ports: u16) -> Tally {
    let asked = |place: u16| Asked {
        port: 8848 + place,
        token: 100 + u64::from(place),
        question: sent(master, 100 + u64::from(place)),
        sent: Some(Ok(Duration::from_millis(10))),
    };
    Tally::new(GROUP, (0..ports).map(asked).collect())
}

fn refused(tally: &Tally) -> BTreeMap<String, u64> {
    tally.refused()
}

#[test]
fn an_answer_is_sealed_where_both_have_the_key_and_refused_where_it_must_be() {
    let ([one, other, both, turned], lax) = (
        [[FIRST].as_slice(), &[SECOND], &[SECOND, FIRST], &[FIRST, SECOND]].map(|keys| secrets(keys, true)),
        secrets(&[FIRST], false),
    );
    for (what, master, backup, expected) in [
        ("nobody has keys", None, None, Ok(false)),
        ("both have one", Some(&one), Some(&one), Ok(true)),
        ("the backup has a new one first", Some(&one), Some(&both), Ok(true)),
        ("the master has a new one first", Some(&both), Some(&turned), Ok(true)),
        ("the master requires one, and the backup has none", Some(&one), None, Err("unauthenticated")),
        ("the master does not", Some(&lax), None, Ok(false)),
        ("the backup has another, and takes what is not made with it", Some(&lax), Some(&other), Ok(false)),
    ] {
        let mut tally = tally(master, 1);
        let answer = answered(&mut Answerer::new(GROUP, BACKUP), backup, &tally.asked[0].question);
        let took = tally.take(&answer.expect(what), from(2), Duration::from_millis(14), master);
        assert_eq!(took, expected.is_ok(), "{what}");
        match expected {
            Ok(sealed) => {
                let [backup] = &tally.backups()[..] else { panic!("{what}") };
                assert_eq!((backup.authenticated, backup.lost), (sealed, sealed.then_some(3)), "{what}");
                assert_eq!(backup.answered, [SyncTestPort { port: 8848, micros: 4000 }], "{what}");
            }
            Err(reason) => assert_eq!(refused(&tally), [(reason.to_owned(), 1)].into(), "{what}"),
        }
    }
}

#[test]
fn an_answer_counts_once_for_its_question_only() {
    let keys = secrets(&[FIRST], true);
    let mut tally = tally(Some(&keys), 2);
    let mut answerer = Answerer::new(GROUP, BACKUP);
    let answers: Vec<Vec<u8>> = (0..2)
        .map(|place| answered(&mut answerer, Some(&keys), &tally.asked[place].question).unwrap())
        .collect();
    let mut take = |bytes: &[u8], last| tally.take(bytes, from(last), Duration::from_millis(20), Some(&keys));
    assert!(take(&answers[0], 2));
    assert!(!take(&answers[0], 2), "it came before");
    assert!(!take(&answers[0], 3), "from elsewhere, too");
    let mut changed = answers[1].clone();
    changed[31] ^= 1;
    assert!(!take(&changed, 2), "it is not as it was made");
    let mut moved = answers[0].clone();
    moved[16..24].copy_from_slice(&101_u64.to_be_bytes());
    assert!(!take(&moved, 2), "it was made for the other question");
    assert!(!take(&answers[1][..Notice::LENGTH + 1], 2));
    let other = answered(&mut answerer, Some(&keys), &sent(Some(&keys), 7)).unwrap();
    assert!(!take(&other, 2), "it is of another test");
    assert!(!tally.is_enough(1), "one port is not proved");
    assert_eq!(tally.backups()[0].silent, [8849]);
    assert!(tally.take(&answers[1], from(2), Duration::from_millis(20), Some(&keys)));
    assert!(tally.is_enough(1) && !tally.is_enough(2));
    let counts = [("garbage", 1), ("other_test", 1), ("repeated", 2), ("unknown_key", 1), ("wrong_code", 1)];
    assert_eq!(refused(&tally), counts.map(|(reason, count)| (reason.to_owned(), count)).into());
}

#[test]
fn keys_may_change_places_while_a_test_runs() {
    let (before, after) = (secrets(&[FIRST, SECOND], true), secrets(&[SECOND, FIRST], true));
    let mut tally = tally(Some(&before), 1);
    let question = tally.asked[0].question.clone();
    let answer = answered(&mut Answerer::new(GROUP, BACKUP), Some(&before), &question).unwrap();
    assert!(tally.take(&answer, from(2), TODAY, Some(&after)));
}

#[test]
fn every_byte_of_a_sealed_answer_counts() {
    let keys = secrets(&[FIRST], true);
    let mut tally = tally(Some(&keys), 1);
    let question = tally.asked[0].question.clone();
    let answer = answered(&mut Answerer::new(GROUP, BACKUP), Some(&keys), &question).unwrap();
    for at in 0..answer.len() {
        let mut bad = answer.clone();
        bad[at] ^= 1;
        assert!(!tally.take(&bad, from(2), TODAY, Some(&keys)), "byte {at}");
        assert!(!tally.take(&answer[..at], from(2), TODAY, Some(&keys)), "{at} bytes");
    }
    assert!(tally.backups().is_empty() && tally.take(&answer, from(2), TODAY, Some(&keys)));
}

/// Else a recorded answer would have the group refuse what its sender says as a master.
#[test]
fn an_answer_is_no_message_of_the_group() {
    let keys = secrets(&[FIRST], true);
    let question = sent(Some(&keys), 1);
    let answer = answered(&mut Answerer::new(GROUP, BACKUP), Some(&keys), &question).unwrap();
    let opened = Opener::default().open(&keys.keys, (from(2).ip(), 8848), &answer, TODAY);
    assert_eq!(opened, Err(Unsealed::UnknownKey));
}

#[test]
fn nobody_answers_himself_or_more_than_so_often() {
    assert_eq!(answered(&mut Answerer::new(GROUP, ASKER), None, &sent(None, 1)), None);
    let mut answerer = Answerer::new(SyncId::ANY, BACKUP);
    let mut at = |millis: u64| {
        let datagram = sent(None, 1);
        let question = Question {
            datagram: &datagram,
            from: from(1),
            port: PORT,
            token: 1,
            asker: ASKER,
            key: None,
            lost: None,
        };
        answerer.answer(&question, None, Time::from_millis(millis), TODAY)
    };
    let count = |at: &mut dyn FnMut(u64) -> Option<(Vec<u8>, SocketAddr)>, millis| {
        (0..1000).filter(|_| at(millis).is_some()).count()
    };
    assert_eq!([5000, 5999, 6000, 6001].map(|millis| count(&mut at, millis)), [128, 0, 128, 0]);
    let (answer, _) = at(7000).unwrap();
    let arrival = Arrival { syncid: SyncId::ANY, token: 1, who: BACKUP, lost: None };
    assert_eq!(
        Notice::decode(&answer, GROUP),
        Some(Notice::Arrived(arrival)),
        "in the group of the question"
    );
}

#[test]
fn a_question_whose_key_is_gone_is_not_answered() {
    let (keys, other) = (secrets(&[FIRST], true), secrets(&[SECOND], true));
    let datagram = sent(Some(&keys), 1);
    let key = Some(keys.keys.ids()[0]);
    let question =
        Question { datagram: &datagram, from: from(1), port: PORT, token: 1, asker: ASKER, key, lost: None };
    let mut answerer = Answerer::new(GROUP, BACKUP);
    assert_eq!(answerer.answer(&question, None, Time::ZERO, TODAY), None);
    assert_eq!(answerer.answer(&question, Some(&other), Time::ZERO, TODAY), None);
}

#[test]
fn backups_are_told_apart_and_bounded_and_questions_that_fail_are_named() {
    let mut tally = tally(None, 1);
    for who in 0..300_u32 {
        let arrival = Arrival { syncid: GROUP, token: 100, who, lost: None };
        let answer = Notice::Arrived(arrival).encode(GROUP, 0);
        let took = tally.take(&answer, from((who % 250) as u8), Duration::from_millis(9), None);
        assert_eq!(took, who < 256);
    }
    assert_eq!((tally.backups().len(), refused(&tally)["too_many"]), (256, 44));
    assert_eq!(
        tally.backups()[0].answered[0].micros,
        0,
        "the answer was heard before the question was noted"
    );
    tally.asked[0].sent = None;
    assert!(!tally.is_enough(0));
    tally.asked[0].sent = Some(Err("Operation not permitted".to_owned()));
    assert_eq!((tally.failed()[0].port, tally.is_enough(0)), (8848, true));
}
