use super::*;
use proptest::prelude::*;

#[test]
fn commands_are_whole_lines_of_the_family() {
    let active = |address: &str| Some(Command::Active(address.parse().unwrap()));
    let passive = Some(Command::Passive);
    for (line, v4, v6, what) in [
        ("PASV\r\n", passive, None, "IPv6 has no PASV"),
        ("pasv\r\n", passive, None, "case does not matter"),
        ("PASV", None, None, "cut"),
        ("PASV \r\n", None, None, "not the command"),
        ("EPSV\r\n", passive, passive, "either family"),
        ("EPSV 1\r\n", passive, None, "IPv4"),
        ("epsv 2\r\n", None, passive, "IPv6"),
        ("EPSV ALL\r\n", None, None, "announces that no PORT follows, asks for nothing"),
        ("EPSV 1", None, None, "cut"),
        ("XPASV\r\n", None, None, "begins otherwise"),
        ("RETR PASV\r\n", None, None, "a file of that name"),
        ("PORT 10,0,1,2,4,1\r\n", active("10.0.1.2:1025"), None, "four of an address, two of a port"),
        ("port 10,0,1,2,255,255\r\n", active("10.0.1.2:65535"), None, "case does not matter"),
        ("PORT 10,0,1,2,4,1", None, None, "the last number may go on"),
        ("PORT 10,0,1,2,4\r\n", None, None, "five numbers"),
        ("PORT 10,0,1,2,4,1,1\r\n", None, None, "seven numbers"),
        ("PORT 10,0,1,256,4,1\r\n", None, None, "no byte"),
        ("PORT 10,0,1,,4,1\r\n", None, None, "no number"),
        ("PORT 10,0,1,2,0,0\r\n", None, None, "nobody waits on port 0"),
        ("PORT10,0,1,2,4,1\r\n", None, None, "no space"),
        ("EPRT |1|10.0.1.2|1025|\r\n", active("10.0.1.2:1025"), None, "IPv4"),
        ("EPRT !1!10.0.1.2!1025!\r\n", active("10.0.1.2:1025"), None, "any character between"),
        ("EPRT |2|fd00:1::2|1025|\r\n", None, active("[fd00:1::2]:1025"), "IPv6"),
        ("EPRT |1|fd00:1::2|1025|\r\n", None, None, "the wrong family"),
        ("EPRT |2|10.0.1.2|1025|\r\n", None, None, "the wrong family"),
        ("EPRT |1|10.0.1.2|1025\r\n", None, None, "not closed"),
        ("EPRT |1|10.0.1.2|65536|\r\n", None, None, "no port"),
        ("EPRT |1|10.0.1.2|+80|\r\n", None, None, "no number"),
        ("\r\n", None, None, "empty"),
        ("", None, None, "nothing"),
    ] {
        for (family, expected) in [(Family::V4, v4), (Family::V6, v6)] {
            let found: Vec<_> = commands(line.as_bytes(), family).collect();
            assert_eq!(found, Vec::from_iter(expected), "{line:?} over {family}: {what}");
        }
    }
}

#[test]
fn several_commands_in_a_packet_are_read_in_their_order() {
    let packet = b"TYPE I\r\nPORT 10,0,1,2,4,1\r\nPASV\r\nPA";
    let found: Vec<_> = commands(packet, Family::V4).collect();
    assert_eq!(found, [Command::Active("10.0.1.2:1025".parse().unwrap()), Command::Passive]);
}

#[test]
fn answers_tell_a_port_in_their_place() {
    for (line, v4, v6, what) in [
        ("227 Entering Passive Mode (10,0,2,11,4,1).\r\n", Some("10,0,2,11,4,1"), None, "vsftpd"),
        ("227 Entering Passive Mode 10,0,2,11,4,1\r\n", Some("10,0,2,11,4,1"), None, "no parentheses"),
        ("227 mode2 =10,0,2,11,4,1,\r\n", None, None, "seven numbers"),
        ("227 mode2 =10,0,2,11,4,1\r\n", Some("10,0,2,11,4,1"), None, "a number before"),
        ("227 (10,0,2,11,4,1", None, None, "the last number may go on"),
        ("227 (10,0,2,11,0,0)\r\n", None, None, "nobody waits on port 0"),
        ("227-(10,0,2,11,4,1)\r\n", None, None, "not the last line of an answer"),
        ("200 (10,0,2,11,4,1)\r\n", None, None, "another answer"),
        ("229 Entering Extended Passive Mode (|||1025|)\r\n", Some("1025"), Some("1025"), "vsftpd"),
        ("229 (!!!1025!)\r\n", Some("1025"), Some("1025"), "any character between"),
        ("229 (|||1025)\r\n", None, None, "not closed"),
        ("229 (||1|1025|)\r\n", None, None, "fields that are to be empty"),
        ("229 (|||66000|)\r\n", None, None, "no port"),
        ("229 |||1025|\r\n", None, None, "no parenthesis"),
        ("229", None, None, "cut"),
        ("150 Here it comes.\r\n227 (10,0,2,11,4,1)\r\n", Some("10,0,2,11,4,1"), None, "behind another"),
    ] {
        for (family, expected) in [(Family::V4, v4), (Family::V6, v6)] {
            let found = answer(line.as_bytes(), family);
            let place = found.as_ref().map(|answer| &line[answer.place.clone()]);
            assert_eq!(place, expected, "{line:?} over {family}: {what}");
            assert!(found.is_none_or(|answer| answer.port == 1025), "{line:?}");
        }
    }
}

#[test]
fn another_address_is_told_in_the_form_of_the_answer() {
    let told = |line: &[u8], family, address: &str| {
        String::from_utf8(answer(line, family).unwrap().telling(address.parse().unwrap())).unwrap()
    };
    assert_eq!(told(b"227 (10,0,2,11,4,1)\r\n", Family::V4, "10.0.0.100:2000"), "10,0,0,100,7,208");
    assert_eq!(told(b"229 (|||1025|)\r\n", Family::V4, "10.0.0.100:2000"), "2000");
    assert_eq!(told(b"229 (|||1025|)\r\n", Family::V6, "[fd00::100]:2000"), "2000");
}

/// Bytes of which lines of FTP are made, and a few that have no place there.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        prop::sample::select(vec![
            "PASV",
            "EPSV",
            "PORT ",
            "EPRT ",
            "227 ",
            "229 ",
            "\r\n",
            "\n",
            "(",
            ")",
            "|",
            "|||",
            ",",
            "1",
            "2",
            "10,0,2,11,4,1",
            "10.0.1.2",
            "fd00:1::2",
            "1025",
            "65536",
            " ",
        ])
        .prop_map(|word| word.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(words, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn whatever_is_said_is_survived_and_told_in_place(payload in text(), is_v4: bool) {
        let (family, vip): (_, SocketAddr) = if is_v4 {
            (Family::V4, "10.0.0.100:54321".parse().unwrap())
        } else {
            (Family::V6, "[fd00::100]:54321".parse().unwrap())
        };
        for command in commands(&payload, family) {
            if let Command::Active(address) = command {
                prop_assert_eq!(Family::of(address.ip()), family);
                prop_assert_ne!(address.port(), 0);
            }
        }
        if let Some(found) = answer(&payload, family) {
            let mut told = payload.clone();
            told.splice(found.place.clone(), found.telling(vip));
            let again = answer(&told, family);
            prop_assert_eq!(again.map(|again| again.port), Some(54_321), "{:?}", told);
        }
    }

    #[test]
    fn random_bytes_are_survived(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        for family in [Family::V4, Family::V6] {
            let _ = commands(&payload, family).count();
            let _ = answer(&payload, family);
        }
    }
}
