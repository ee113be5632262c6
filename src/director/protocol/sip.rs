//! The Call-ID of a SIP message (RFC 3261, 20.8): what the persistence engine `sip` knows a client's calls by
//! (`net/netfilter/ipvs/ip_vs_pe_sip.c`, which reads headers as `nf_conntrack_sip.c` does).
//!
//! No SIP is checked: the first line may be anything, and headers are looked for in the body as well. A call that IPVS
//! would find by its name is found by the same name here, a strange one too.
//!
//! ```
//! use nfvs::director::protocol::call_id;
//! let request = b"OPTIONS sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7\r\nCall-ID: 7@192.0.2.7\r\n\r\n";
//! assert_eq!(call_id(request), Some(&b"7@192.0.2.7"[..]));
//! assert_eq!(call_id(b"\r\n\r\n"), None);
//! ```

/// The longest Call-ID that calls are known by, in bytes (`IP_VS_PEDATA_MAXLEN`).
const MAX_LEN: usize = 255;

/// The value of the first header Call-ID, or `i` for short, that has one. It may be split from its name over lines, but
/// ends with its line: within `message`, with CR or LF behind it. No longer than 255 bytes.
///
/// A line that begins with the header's name and then has no colon ends the search.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    let mut rest = message;
    loop {
        rest = value_of_next(rest)?;
        let id = value(rest);
        if !id.is_empty() {
            let ends_line = rest.get(id.len()).is_some_and(|byte| is_line_end(*byte));
            return (id.len() <= MAX_LEN && ends_line).then_some(id);
        }
    }
}

/// What stands behind the name and the colon of the next header of that name, which is not on the first line.
fn value_of_next(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = next_line(text)?;
        if let Some(behind_name) = behind_name(text) {
            let behind_colon = skip_blanks(behind_name)?.strip_prefix(b":")?;
            return skip_blanks(behind_colon);
        }
        // What a line begins with does not end it, not even a line end: a bare LF hides the line behind it.
        text = text.get(1..)?;
    }
}

/// The text from the next line on that is not the last one's continuation.
fn next_line(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let end = text.iter().position(|byte| is_line_end(*byte))?;
        text = behind_line_end(&text[end..])?;
        if !is_blank(text[0]) {
            return Some(text);
        }
    }
}

/// What follows the CR, LF or CRLF that `text` begins with; nothing if that is all there is.
fn behind_line_end(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"\r\n").or_else(|| text.get(1..))?;
    (!rest.is_empty()).then_some(rest)
}

/// What follows the header's name, if `line` begins with it. The short one is none if a letter follows.
fn behind_name(line: &[u8]) -> Option<&[u8]> {
    const LONG: usize = b"Call-ID".len();
    match line {
        _ if line.get(..LONG).is_some_and(|name| name.eq_ignore_ascii_case(b"Call-ID")) => {
            Some(&line[LONG..])
        }
        [b'i' | b'I', rest @ ..] if rest.first().is_some_and(|next| !is_letter(*next)) => Some(rest),
        _ => None,
    }
}

/// What follows blanks, and the end of a line among them if the next one continues it. Nothing if there is nothing
/// more.
fn skip_blanks(text: &[u8]) -> Option<&[u8]> {
    let text = behind_blanks(text);
    if !is_line_end(*text.first()?) {
        return Some(text);
    }
    behind_line_end(text).filter(|next| is_blank(next[0])).map(behind_blanks)
}

fn behind_blanks(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| is_blank(**byte)).count()..]
}

/// The Call-ID that `text` begins with: a word, or two with `@` between them. Empty if there is none.
fn value(text: &[u8]) -> &[u8] {
    let local = word_len(text);
    match &text[local..] {
        [b'@', domain @ ..] if local > 0 => match word_len(domain) {
            0 => &[],
            domain => &text[..local + 1 + domain],
        },
        _ => &text[..local],
    }
}

fn word_len(text: &[u8]) -> usize {
    let is_of_word = |byte: &&u8| is_letter(**byte) || b"0123456789-.!%*_+`'~()<>:\\\"/[]?{}".contains(byte);
    text.iter().take_while(is_of_word).count()
}

/// The letters of Latin-1: RFC 3261 has those of ASCII in a word, and the kernel (`isalpha`) the others as well.
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, 0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a message with these lines is known by.
    fn id(lines: &str) -> Option<String> {
        let message = format!("OPTIONS sip:bob@example.org SIP/2.0\r\n{lines}");
        call_id(message.as_bytes()).map(|id| String::from_utf8(id.to_vec()).expect("ASCII"))
    }

    #[test]
    fn the_first_header_with_a_value_names_the_call() {
        let long = |len: usize| format!("Call-ID: {}\r\n", "a".repeat(len));
        for (lines, expected, why) in [
            ("Call-ID: 7@192.0.2.7\r\n", "7@192.0.2.7", "a word, an at sign, a word"),
            ("Call-ID: 7\r\n", "7", "a word is enough"),
            ("CALL-id:7\r\n", "7", "upper and lower case are the same, and no blank is needed"),
            ("i: 7\r\n", "7", "the short name"),
            ("I \t: \t7\r\n", "7", "blanks on both sides of the colon"),
            ("Via: x\r\nCall-ID: 7\r\nCall-ID: 8\r\n", "7", "the first of two"),
            ("i: 7\r\nCall-ID: 8\r\n", "7", "whatever its name"),
            ("Call-ID: 7\n", "7", "LF alone"),
            ("Call-ID: 7\r", "7", "CR alone"),
            ("Via: x\rCall-ID: 7\n", "7", "both, one after the other"),
            ("Call-ID:\r\n 7\r\n", "7", "on the line that continues the header's"),
            ("Call-ID\r\n : 7\r\n", "7", "with the colon"),
            ("Call-ID: @x\r\nCall-ID: 7\r\n", "7", "one without a value does not count"),
            ("Call-ID: 7@\r\nCall-ID: 8\r\n", "8", "nor one without what the at sign promises"),
            ("Subject: x\r\n Call-ID: 7\r\ni: 8\r\n", "8", "nor what continues another header"),
            ("In-Reply-To: 7\r\ni: 8\r\n", "8", "the short name is not the beginning of a longer one"),
            ("\r\ni: 7\r\n", "7", "in the body too"),
            ("i: a-.!%*_+`'~()<>:\\\"/[]?{}9\r\n", "a-.!%*_+`'~()<>:\\\"/[]?{}9", "what a word may have"),
            (&long(255), &"a".repeat(255), "the longest"),
        ] {
            assert_eq!(id(lines).as_deref(), Some(expected), "{why}: {lines:?}");
        }
        assert_eq!(call_id(b"x\r\ni: \xe4\xd7\r\n"), None, "the sign of multiplication ends no line");
        assert_eq!(call_id(b"x\r\ni: \xe4@\xff\r\n"), Some(&b"\xe4@\xff"[..]), "letters of Latin-1");
    }

    #[test]
    fn what_has_no_call_id_as_the_kernel_reads_it_has_none() {
        for (lines, why) in [
            ("", "no header"),
            ("Via: x\r\n\r\n", "another header"),
            ("Call-ID: 7", "the message ends with it"),
            ("Call-ID: 7 \r\n", "a blank ends it, not a line end"),
            ("Call-ID: 7@8@9\r\n", "nor does another at sign"),
            ("Call-ID: 7;x\r\n", "nor another character"),
            ("Call-ID:\r\n", "empty"),
            ("Call-ID:\r\n7\r\n", "the next line does not continue it"),
            ("Call-ID", "the name alone"),
            ("Call-ID:", "with a colon"),
            ("i", "the short name alone"),
            ("Call-ID-Alias: 7\r\nCall-ID: 8\r\n", "no colon behind the name, which ends the search"),
            ("i9: 7\r\nCall-ID: 8\r\n", "nor behind the short one"),
            ("x\n\ni: 7\r\n", "a line behind an LF that stands alone is not seen"),
            (&format!("Call-ID: {}\r\n", "a".repeat(256)), "too long"),
        ] {
            assert_eq!(id(lines), None, "{why}: {lines:?}");
        }
        assert_eq!(call_id(b"Call-ID: 7\r\n"), None, "the first line has no header");
        assert_eq!(call_id(b""), None);
    }

    proptest! {
        /// Whatever a datagram carries, what it is known by stands in it, is no longer than that, and has a line end
        /// behind it.
        #[test]
        fn any_bytes_are_read(message in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            // Of what the search looks at, so that it comes far.
            "[\r\n \ti@:C7-]{0,60}".prop_map(String::into_bytes),
            "([\r\n]{1,2}[ \t]?(Call-ID|i)[ \t\r\n]{0,3}:?[ \t\r\n]{0,3}[a@9]{0,3}){0,6}[\r\n]?"
                .prop_map(String::into_bytes),
        ]) {
            if let Some(id) = call_id(&message) {
                prop_assert!((1..=MAX_LEN).contains(&id.len()));
                let followed = |end: u8| [id, &[end]].concat();
                prop_assert!(
                    b"\r\n".iter().any(|end| message.windows(id.len() + 1).any(|found| found == followed(*end)))
                );
            }
        }
    }
}
