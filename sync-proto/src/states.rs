//! What flags, protocol and state a record may have together, in either version (`ip_vs_proc_sync_conn` and
//! `ip_vs_process_message_v0`).

use crate::{ConnFlags, RecordError};

/// The states of an IP protocol in the order of their numbers, by the names that `/proc/net/ip_vs_conn` shows
/// (`IP_VS_TCP_S_*` and the like of `ip_vs.h`); of templates, without a protocol.
pub(crate) const fn names(protocol: Option<u8>) -> Option<&'static [&'static str]> {
    Some(match protocol {
        None => &["NONE", "ASSURED"],
        Some(6) => &[
            "NONE",
            "ESTABLISHED",
            "SYN_SENT",
            "SYN_RECV",
            "FIN_WAIT",
            "TIME_WAIT",
            "CLOSE",
            "CLOSE_WAIT",
            "LAST_ACK",
            "LISTEN",
            "SYNACK",
        ],
        Some(17) => &["UDP"],
        // ESP and AH: one state, for which the kernel has no name.
        Some(50 | 51) => &["ERR!"],
        Some(132) => &[
            "NONE",
            "INIT1",
            "INIT",
            "C-SENT",
            "C-REPLIED",
            "C-WAIT",
            "COOKIE",
            "C-ECHOED",
            "ESTABLISHED",
            "S-SENT",
            "S-RECEIVED",
            "S-ACK-SENT",
            "REJECTED",
            "CLOSED",
        ],
        Some(_) => return None,
    })
}

/// The name of a state by its number, in an IP protocol or, without one, of templates: as the kernel shows it. None if
/// there is no such state, or the protocol is not balanced.
///
/// ```
/// assert_eq!(sync_proto::state_name(Some(6), 4), Some("FIN_WAIT"));
/// assert_eq!(sync_proto::state_name(None, 1), Some("ASSURED"));
/// assert_eq!(sync_proto::state_name(Some(17), 1), None);
/// ```
pub fn state_name(protocol: Option<u8>, state: u16) -> Option<&'static str> {
    names(protocol)?.get(usize::from(state)).copied()
}

/// Checks what fields say together. The protocol of a template is not looked at.
pub(crate) const fn check(flags: ConnFlags, protocol: u8, state: u16) -> Result<(), RecordError> {
    let is_template = flags.contains(ConnFlags::TEMPLATE);
    if is_template && flags.contains(ConnFlags::NO_CPORT) {
        return Err(RecordError::TemplateWithoutPort);
    }
    if flags.contains(ConnFlags::ONE_PACKET) {
        return Err(RecordError::OnePacket);
    }
    let of = if is_template { None } else { Some(protocol) };
    match names(of) {
        None => Err(RecordError::Protocol(protocol)),
        Some(names) if state as usize >= names.len() => Err(RecordError::State { protocol: of, state }),
        Some(_) => Ok(()),
    }
}
