//! Fields at fixed offsets of byte strings of fixed length. That a field lies within is checked when this is compiled, so
//! that nothing here can fail on bytes from outside.

/// The bytes of the field at `AT`.
#[inline]
pub(crate) fn field<const AT: usize, const N: usize, const LEN: usize>(bytes: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN, "the field lies within") };
    let mut field = [0; N];
    field.copy_from_slice(&bytes[AT..AT + N]);
    field
}

/// Writes the field at `AT`.
#[inline]
pub(crate) fn put<const AT: usize, const N: usize, const LEN: usize>(bytes: &mut [u8; LEN], field: [u8; N]) {
    const { assert!(AT + N <= LEN, "the field lies within") };
    bytes[AT..AT + N].copy_from_slice(&field);
}
