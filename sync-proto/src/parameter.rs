//! The parameters of a record of version 1: type, length, data.

use crate::{Engine, RecordError, SequenceShifts};
use core::fmt;

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parameter<'a> {
    /// The type, the bit of optional ones included.
    pub kind: u8,
    /// 1 to 255 bytes.
    pub data: &'a [u8],
}

/// The parameters of a record that this crate does not know and need not: their type has bit 0x40 set.
///
/// ```
/// use sync_proto::OptionalParameters;
/// let parameters = OptionalParameters::new(&[0x50, 2, b'h', b'i']).unwrap();
/// assert_eq!(parameters.iter().next().unwrap().data, b"hi");
/// assert!(OptionalParameters::new(&[0x10, 2, b'h', b'i']).is_none(), "not optional");
/// ```
#[derive(Clone, Copy, Default)]
pub struct OptionalParameters<'a> {
    /// Well-formed; may hold other parameters, which are not shown.
    bytes: &'a [u8],
}

impl<'a> OptionalParameters<'a> {
    /// Takes them as they stand on the wire. None: not well-formed, or one of them is not optional, or known.
    pub fn new(bytes: &'a [u8]) -> Option<OptionalParameters<'a>> {
        let all = Walk { rest: bytes };
        let are_optional = all.into_iter().all(|parameter| parameter.is_ok_and(|p| is_optional(p.kind)));
        are_optional.then_some(OptionalParameters { bytes })
    }

    /// One after the other, in the order of the wire.
    pub fn iter(self) -> impl Iterator<Item = Parameter<'a>> {
        Walk { rest: self.bytes }.filter_map(Result::ok).filter(|parameter| is_optional(parameter.kind))
    }

    pub(crate) fn encoded_len(self) -> usize {
        self.iter().map(|parameter| 2 + parameter.data.len()).sum()
    }
}

impl PartialEq for OptionalParameters<'_> {
    fn eq(&self, other: &OptionalParameters<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for OptionalParameters<'_> {}

impl fmt::Debug for OptionalParameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// All parameters of a record.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parameters<'a> {
    pub(crate) sequence: Option<SequenceShifts>,
    pub(crate) engine: Option<Engine<'a>>,
    pub(crate) optional: OptionalParameters<'a>,
    /// There is engine data, and no name.
    pub(crate) unnamed: bool,
}

impl<'a> Parameters<'a> {
    /// Reads what stands between the fixed part and the record's end.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Parameters<'a>, RecordError> {
        let mut parameters = Parameters::default();
        let (mut data, mut name) = (None, None);
        let mut walk = Walk { rest: bytes };
        while let Some(parameter) = walk.next() {
            let Parameter { kind, data: value } = parameter?;
            let wrong_length = RecordError::ParameterLength {
                kind,
                // The walk took it from one byte.
                stated: value.len() as u8,
                left: value.len() + walk.rest.len(),
            };
            let is_second = match kind & !OPTIONAL {
                SEQUENCE => {
                    let value = value.try_into().map_err(|_| wrong_length)?;
                    parameters.sequence.replace(SequenceShifts::read(value, u32::from_be_bytes)).is_some()
                }
                ENGINE_DATA => data.replace(value).is_some(),
                ENGINE_NAME if value.len() > LONGEST_NAME => return Err(wrong_length),
                ENGINE_NAME => name.replace(value).is_some(),
                _ if kind & OPTIONAL == 0 => return Err(RecordError::ParameterUnknown { kind }),
                _ => {
                    parameters.optional = OptionalParameters { bytes };
                    false
                }
            };
            if is_second {
                return Err(RecordError::ParameterTwice { kind });
            }
        }
        parameters.engine = data.zip(name).map(|(data, name)| Engine { name, data });
        parameters.unnamed = data.is_some() && name.is_none();
        Ok(parameters)
    }

    /// The length of what [`encode`](Self::encode) writes.
    pub(crate) fn encoded_len(&self) -> usize {
        let sequence = if self.sequence.is_some() { 2 + 24 } else { 0 };
        let engine = self.engine.map_or(0, |engine| 4 + engine.data.len() + engine.name.len());
        sequence + engine + self.optional.encoded_len()
    }

    /// Whether each value fits its parameter.
    pub(crate) fn check(&self) -> Result<(), RecordError> {
        let Some(Engine { name, data }) = self.engine else { return Ok(()) };
        for (kind, value, longest) in
            [(ENGINE_DATA, data, usize::from(u8::MAX)), (ENGINE_NAME, name, LONGEST_NAME)]
        {
            if value.is_empty() || value.len() > longest {
                let stated = u8::try_from(value.len()).unwrap_or(u8::MAX);
                return Err(RecordError::ParameterLength { kind, stated, left: value.len() });
            }
        }
        Ok(())
    }

    /// Writes them, [checked](Self::check), in the kernel's order and optional ones last, to `to`, which is
    /// [as long](Self::encoded_len) as they are.
    pub(crate) fn encode(&self, to: &mut [u8]) {
        let mut rest = to;
        let mut put = |kind: u8, data: &[u8]| {
            let (parameter, behind) = core::mem::take(&mut rest).split_at_mut(2 + data.len());
            parameter[0] = kind;
            parameter[1] = data.len() as u8;
            parameter[2..].copy_from_slice(data);
            rest = behind;
        };
        if let Some(sequence) = self.sequence {
            put(SEQUENCE, &sequence.written(u32::to_be_bytes));
        }
        if let Some(Engine { name, data }) = self.engine {
            put(ENGINE_DATA, data);
            put(ENGINE_NAME, name);
        }
        for Parameter { kind, data } in self.optional.iter() {
            put(kind, data);
        }
    }
}

/// The parameters one after the other; ends after the first that is not well-formed.
#[derive(Clone, Copy, Debug)]
struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Parameter<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, behind) = self.rest.split_first()?;
        self.rest = &[];
        let Some((&stated, behind)) = behind.split_first() else {
            return Some(Err(RecordError::ParameterTruncated { kind }));
        };
        Some(match behind.split_at_checked(usize::from(stated)) {
            Some((data, rest)) if stated != 0 => {
                self.rest = rest;
                Ok(Parameter { kind, data })
            }
            _ => Err(RecordError::ParameterLength { kind, stated, left: behind.len() }),
        })
    }
}

const fn is_optional(kind: u8) -> bool {
    kind & OPTIONAL != 0 && !matches!(kind & !OPTIONAL, SEQUENCE | ENGINE_DATA | ENGINE_NAME)
}

/// The types (`IPVS_OPT_SEQ_DATA` and those behind it), and the bit that makes a parameter optional
/// (`IPVS_OPT_F_PARAM`).
const SEQUENCE: u8 = 1;
const ENGINE_DATA: u8 = 2;
const ENGINE_NAME: u8 = 3;
const OPTIONAL: u8 = 0x40;

/// `IP_VS_PENAME_MAXLEN`.
const LONGEST_NAME: usize = 16;
