//! Expressions of libnftnl by name and attributes, for what the `nftnl` crate has no type for: its payload and
//! meta expressions write one fixed register, its lookups read it, and there is no queue, hash, fib, notrack, map
//! look-up, payload write or xtables target.

use std::{
    ffi::{CStr, CString, c_void},
    mem::size_of,
    ptr::NonNull,
};

use nftnl::{Rule, expr::Expression, nftnl_sys as sys};

/// An expression: its kernel name and the attributes that differ from their defaults.
#[derive(Debug)]
pub(crate) struct Expr {
    name: &'static CStr,
    attributes: Vec<(u32, Value)>,
}

#[derive(Debug)]
enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    Data(Vec<u8>),
    Text(CString),
    /// Bytes that libnftnl takes over and frees.
    Owned([u8; XT_NFQUEUE_INFO]),
}

/// `struct xt_NFQ_info_v3` is three u16; xtables rounds sizes up to eight bytes (XT_ALIGN).
const XT_NFQUEUE_INFO: usize = 8;

impl Expr {
    pub(crate) fn new(name: &'static CStr) -> Self {
        Expr { name, attributes: Vec::new() }
    }

    pub(crate) fn u8(mut self, attribute: u32, value: u8) -> Self {
        self.attributes.push((attribute, Value::U8(value)));
        self
    }

    pub(crate) fn u16(mut self, attribute: u32, value: u16) -> Self {
        self.attributes.push((attribute, Value::U16(value)));
        self
    }

    pub(crate) fn u32(mut self, attribute: u32, value: u32) -> Self {
        self.attributes.push((attribute, Value::U32(value)));
        self
    }

    pub(crate) fn data(mut self, attribute: u32, value: impl Into<Vec<u8>>) -> Self {
        self.attributes.push((attribute, Value::Data(value.into())));
        self
    }

    /// A name: ours, or the kernel's; never with a zero byte.
    pub(crate) fn text(mut self, attribute: u32, value: &str) -> Self {
        let value = CString::new(value).expect("names have no zero byte");
        self.attributes.push((attribute, Value::Text(value)));
        self
    }

    /// The xtables target NFQUEUE, revision 3 (linux/netfilter/xt_NFQUEUE.h), to one queue, with bypass.
    pub(crate) fn xt_nfqueue(number: u16) -> Self {
        const BYPASS: u16 = 1;
        let mut info = [0; XT_NFQUEUE_INFO];
        for (field, value) in info.chunks_exact_mut(size_of::<u16>()).zip([number, 1, BYPASS]) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
        let mut expr =
            Expr::new(c"target").text(sys::NFTNL_EXPR_TG_NAME, "NFQUEUE").u32(sys::NFTNL_EXPR_TG_REV, 3);
        expr.attributes.push((sys::NFTNL_EXPR_TG_INFO, Value::Owned(info)));
        expr
    }
}

impl Expression for Expr {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the name is a C string; the call has no other condition.
        let allocated = unsafe { sys::nftnl_expr_alloc(self.name.as_ptr()) };
        // libnftnl builds with every expression named here, so that only an allocation can fail.
        let expr = NonNull::new(allocated).expect("libnftnl makes the expression");
        for (attribute, value) in &self.attributes {
            let attribute = u16::try_from(*attribute).expect("libnftnl numbers attributes in 16 bits");
            // SAFETY: `expr` is live and ours until it is returned. Each setter copies from memory that is valid
            // for the length it is given, except that the info of a target is kept and freed with the expression
            // by free(3), hence malloc(3) for it. The attribute belongs to the expression and has the type of
            // the setter: `compile.rs` pairs them, and its rules are loaded into a kernel by tests.
            unsafe {
                match value {
                    Value::U8(value) => sys::nftnl_expr_set_u8(expr.as_ptr(), attribute, *value),
                    Value::U16(value) => sys::nftnl_expr_set_u16(expr.as_ptr(), attribute, *value),
                    Value::U32(value) => sys::nftnl_expr_set_u32(expr.as_ptr(), attribute, *value),
                    Value::Data(value) => {
                        let len =
                            u32::try_from(value.len()).expect("at most the sixteen bytes of a register");
                        sys::nftnl_expr_set(expr.as_ptr(), attribute, value.as_ptr().cast(), len);
                    }
                    Value::Text(value) => {
                        sys::nftnl_expr_set_str(expr.as_ptr(), attribute, value.as_ptr());
                    }
                    Value::Owned(value) => {
                        let copy: *mut c_void = libc::malloc(value.len());
                        assert!(!copy.is_null(), "out of memory");
                        copy.cast::<u8>().copy_from_nonoverlapping(value.as_ptr(), value.len());
                        sys::nftnl_expr_set(expr.as_ptr(), attribute, copy, XT_NFQUEUE_INFO as u32);
                    }
                }
            }
        }
        expr
    }
}
