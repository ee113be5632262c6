//! One transaction: messages between a batch begin and a batch end, sent as one datagram, every one answered.
//!
//! The kernel (nfnetlink_rcv_batch) applies a batch when it has all of it in one datagram, and has queued every
//! answer before the send returns. So the send buffer must hold the whole batch and the receive buffer all the
//! answers, and reading never needs to wait.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, RawFd},
    ptr::NonNull,
};

use nftnl::{Batch, MsgType, ProtoFamily, Rule, Table, nftnl_sys as sys, set::Set as NftSet, set::SetKey};

use crate::{
    Error, compile,
    elements::SetElements,
    error::Message,
    sets::{Column, Set},
    statement::{Family, Statement},
    steering::{self, Hook, TABLE},
};

/// A transaction being written.
pub(crate) struct Transaction {
    batch: Batch,
    /// What each message between begin and end asks for.
    messages: Vec<Message>,
}

impl Transaction {
    pub(crate) fn new() -> Self {
        Transaction { batch: Batch::new(), messages: Vec::new() }
    }

    pub(crate) fn add_table(&mut self, name: &str, family: Family) {
        self.batch.add(&table(name, family), MsgType::Add);
        self.messages.push(Message::Table(family));
    }

    pub(crate) fn delete_table(&mut self, name: &str, family: Family) {
        self.batch.add(&table(name, family), MsgType::Del);
        self.messages.push(Message::Table(family));
    }

    pub(crate) fn add_chain(&mut self, table_name: &str, family: Family, chain: &steering::Chain) {
        let table = table(table_name, family);
        let mut made = nftnl::Chain::new(text(chain.name), &table);
        if let Some((hook, priority)) = chain.hook {
            let (hook, kind) = match hook {
                Hook::Prerouting => (nftnl::Hook::PreRouting, nftnl::ChainType::Filter),
                Hook::Forward => (nftnl::Hook::Forward, nftnl::ChainType::Filter),
                Hook::Input => (nftnl::Hook::In, nftnl::ChainType::Filter),
                Hook::Output => (nftnl::Hook::Out, nftnl::ChainType::Route),
                Hook::Postrouting => (nftnl::Hook::PostRouting, nftnl::ChainType::Filter),
            };
            made.set_hook(hook, priority);
            made.set_type(kind);
            made.set_policy(nftnl::Policy::Accept);
        }
        self.batch.add(&made, MsgType::Add);
        self.messages.push(Message::Part(format!("chain {} of table {family} {table_name}", chain.name)));
    }

    pub(crate) fn add_rule(&mut self, table_name: &str, family: Family, chain: &str, rule: &[Statement]) {
        let table = table(table_name, family);
        let owner = nftnl::Chain::new(text(chain), &table);
        let mut made = Rule::new(&owner);
        for expr in compile::rule(rule, family) {
            made.add_expr(&expr);
        }
        self.batch.add(&made, MsgType::Add);
        let mut options: Vec<_> =
            rule.iter().flat_map(|statement| statement.options(family)).copied().collect();
        options.sort_unstable();
        options.dedup();
        let said = steering::rule_text(rule, family);
        self.messages.push(Message::Rule {
            text: format!("chain {chain} of table {family} {table_name}: rule `{said}`"),
            options,
        });
    }

    pub(crate) fn add_set(&mut self, family: Family, set: &Set) {
        let table = table(TABLE, family);
        self.batch.add(&nft_set(set, &table, family), MsgType::Add);
        self.messages.push(Message::Part(format!("set {} of table {family} {TABLE}", set.name)));
    }

    pub(crate) fn add_elements(&mut self, family: Family, set: &Set, elements: &SetElements) {
        self.change_elements(family, set, elements, MsgType::Add);
    }

    pub(crate) fn remove_elements(&mut self, family: Family, set: &Set, elements: &SetElements) {
        self.change_elements(family, set, elements, MsgType::Del);
    }

    fn change_elements(&mut self, family: Family, set: &Set, elements: &SetElements, change: MsgType) {
        let table = table(TABLE, family);
        let made = nft_set(set, &table, family);
        for (key, value) in elements {
            // The value of a removed element would only be compared with nothing.
            append(&made, key, if change == MsgType::Add { value } else { &[] });
        }
        // A message holds as many elements as fit into an attribute: 64 KiB.
        for message in made.elems_iter() {
            self.batch.add(&message, change);
            self.messages
                .push(Message::Elements(format!("elements of set {} of table {family} {TABLE}", set.name)));
        }
    }

    /// Sends it; on an error nothing has changed, and the error is that of the first message refused.
    pub(crate) fn commit(self) -> Result<(), Error> {
        let batch = self.batch.finalize();
        let numbers = batch.sequence_numbers();
        // Kernels from 6.10 on answer the begin and the end of a batch as well, and nftnl numbers them then.
        let begin = (numbers.len() - self.messages.len()).min(1);
        let first = numbers.start as usize + begin;
        let bytes: Vec<u8> = batch.iter().flatten().copied().collect();

        let mut answers = Answers { answered: 0, refused: None };
        exchange(&bytes, numbers.len(), |sequence, errno| {
            answers.answered += 1;
            let refused_before = answers.refused.is_some_and(|(earlier, _)| earlier <= sequence);
            if errno != 0 && !refused_before {
                answers.refused = Some((sequence, errno));
            }
        })?;
        match answers.refused {
            Some((sequence, errno)) => Err(match (sequence as usize).checked_sub(first) {
                Some(index) if index < self.messages.len() => self.messages[index].refused(errno),
                // The batch as a whole: permission, or no nftables behind nfnetlink.
                _ if errno == libc::EOPNOTSUPP => {
                    Error::NoNftables { options: crate::error::Options(vec!["NF_TABLES"]) }
                }
                _ => Message::Part("transaction".into()).refused(errno),
            }),
            None if answers.answered < numbers.len() => {
                Err(Error::Unanswered { answered: answers.answered, sent: numbers.len() })
            }
            None => Ok(()),
        }
    }
}

struct Answers {
    answered: usize,
    refused: Option<(u32, i32)>,
}

/// Whether the kernel has this table.
pub(crate) fn table_exists(name: &str, family: Family) -> Result<bool, Error> {
    let mut request = vec![0u8; nftnl::nft_nlmsg_maxsize() as usize];
    let asked = table(name, family);
    // SAFETY: the buffer has the size that libnftnl asks for a message, and `NlMsg::write` puts one message into
    // it with the header that `nftnl_nlmsg_build_hdr` would; it is turned from NEWTABLE into GETTABLE below.
    unsafe { nftnl::NlMsg::write(&asked, request.as_mut_ptr().cast(), 1, MsgType::Add) };
    let len = u32::from_ne_bytes([request[0], request[1], request[2], request[3]]) as usize;
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETTABLE) as u16;
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    let mut refusal = 0;
    exchange(&request[..len], 1, |_, errno| refusal = errno)?;
    match refusal {
        0 => Ok(true),
        libc::ENOENT => Ok(false),
        errno => Err(Message::Table(family).refused(errno)),
    }
}

/// Sends one datagram and gives every answer there is to it: sequence number and errno, 0 for done.
fn exchange(bytes: &[u8], answers: usize, mut answer: impl FnMut(u32, i32)) -> Result<(), Error> {
    /// What an answer without a copy of the request costs in a socket buffer, generously.
    const ANSWER: usize = 2048;
    /// The kernel keeps a little of the send buffer for itself (netlink_sendmsg: 32 bytes).
    const RESERVE: usize = 4096;
    const NLMSG_ERRNO: std::ops::Range<usize> = 16..20;

    let socket = mnl::Socket::new(mnl::Bus::Netfilter)?;
    let fd = socket.as_raw_fd();
    let refused = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM) => Error::Permission,
        _ => Error::Socket(error),
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes.len() + RESERVE).map_err(refused)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, answers * ANSWER + RESERVE).map_err(refused)?;
    // An answer then quotes the header of the message alone, not up to 64 KiB of elements.
    set_option(fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
    if socket.send(bytes)? != bytes.len() {
        return Err(Error::Socket(io::ErrorKind::WriteZero.into()));
    }

    set_nonblocking(fd)?;
    let mut words = vec![0u64; nftnl::nft_nlmsg_maxsize() as usize / size_of::<u64>()];
    loop {
        // SAFETY: the words are initialised memory of that many bytes, borrowed mutably for as long.
        let buffer = unsafe {
            std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), words.len() * size_of::<u64>())
        };
        let messages = match socket.recv(buffer) {
            Ok(messages) => messages,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        for message in messages {
            let message = message?;
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            let sequence = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
            if let (libc::NLMSG_ERROR, Some(code)) = (i32::from(kind), message.get(NLMSG_ERRNO)) {
                let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                answer(sequence, -code);
            }
        }
    }
}

fn set_option(fd: RawFd, level: i32, option: i32, value: usize) -> io::Result<()> {
    let value = i32::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is an int that lives through the call, which is what these options take.
    match unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved; the descriptor is the caller's socket.
    match unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn text(name: &str) -> CString {
    CString::new(name).expect("names have no zero byte")
}

fn protocol_family(family: Family) -> ProtoFamily {
    match family {
        Family::Ip4 => ProtoFamily::Ipv4,
        Family::Ip6 => ProtoFamily::Ipv6,
    }
}

fn table(name: &str, family: Family) -> Table {
    Table::new(text(name), protocol_family(family))
}

/// A key type for `nftnl`, which takes it from a Rust type; ours are known at run time only and set afterwards.
struct Untyped;

impl SetKey for Untyped {
    const TYPE: u32 = 0;
    const LEN: u32 = 0;

    fn data(&self) -> Box<[u8]> {
        Box::default()
    }
}

/// The set without elements.
fn nft_set<'a>(set: &Set, table: &'a Table, family: Family) -> NftSet<'a, Untyped> {
    /// The kernel wants one in a transaction; sets are found by name.
    const SET_ID: u32 = 0;
    let made = NftSet::<Untyped>::new_named(&text(set.name), SET_ID, table, protocol_family(family));
    let mut attributes = vec![
        (sys::NFTNL_SET_KEY_TYPE, set.key_number(family)),
        (sys::NFTNL_SET_KEY_LEN, set.key_len(family)),
    ];
    if let Some(value) = set.value {
        attributes.extend([
            (sys::NFTNL_SET_FLAGS, libc::NFT_SET_MAP as u32),
            (sys::NFTNL_SET_DATA_TYPE, value.number(family)),
            (sys::NFTNL_SET_DATA_LEN, value.len(family)),
        ]);
    }
    for (attribute, value) in attributes {
        // SAFETY: the pointer is that of a live set that nobody else uses; the attributes are 32-bit numbers.
        unsafe { sys::nftnl_set_set_u32(made.as_ptr().as_ptr(), attribute as u16, value) };
    }
    let notes = byte_order_notes(set);
    if !notes.is_empty() {
        // SAFETY: as above; the setter copies as many bytes as the vector has.
        let copied = unsafe {
            sys::nftnl_set_set_data(
                made.as_ptr().as_ptr(),
                sys::NFTNL_SET_USERDATA as u16,
                notes.as_ptr().cast(),
                notes.len() as u32,
            )
        };
        assert_eq!(copied, 0, "out of memory");
    }
    made
}

/// What nft keeps beside a set to list it (user data the kernel does not read: type, length, value): that marks
/// are in host byte order. It would print them swapped otherwise.
fn byte_order_notes(set: &Set) -> Vec<u8> {
    const HOST_ENDIAN: u32 = 1;
    let key = (set.key == [Column::Mark]).then_some(sys::NFTNL_UDATA_SET_KEYBYTEORDER);
    let value = (set.value == Some(Column::Mark)).then_some(sys::NFTNL_UDATA_SET_DATABYTEORDER);
    [key, value]
        .into_iter()
        .flatten()
        .flat_map(|kind| [&[kind as u8, size_of::<u32>() as u8][..], &HOST_ENDIAN.to_ne_bytes()].concat())
        .collect()
}

/// Appends an element to the set's list; an empty value is none.
fn append(set: &NftSet<'_, Untyped>, key: &[u8], value: &[u8]) {
    // SAFETY: an allocation without conditions.
    let element = NonNull::new(unsafe { sys::nftnl_set_elem_alloc() }).expect("out of memory");
    let parts = [(sys::NFTNL_SET_ELEM_KEY, key), (sys::NFTNL_SET_ELEM_DATA, value)];
    for (attribute, bytes) in parts.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
        // SAFETY: the element is ours; the setter copies as many bytes as the slice has.
        unsafe {
            sys::nftnl_set_elem_set(
                element.as_ptr(),
                attribute as u16,
                bytes.as_ptr().cast(),
                bytes.len() as u32,
            )
        };
    }
    // SAFETY: the set is live and takes the element over, to free it with itself.
    unsafe { sys::nftnl_set_elem_add(set.as_ptr().as_ptr(), element.as_ptr()) };
}
