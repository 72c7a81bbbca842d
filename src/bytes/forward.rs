//! Forwarding of all of `Bytes` at once, so that no wrapper forgets a method.

/// Implements `Bytes<$A, E = guest_memory::Error>` by calling every method on another memory.
///
/// `|self, addr| target, at` says on what and where; `|error| ...` turns the answer's error into the caller's.
macro_rules! forward_bytes {
    (
        impl $([$($generics:tt)*])? Bytes<$A:ty> for $T:ty {
            |$self:ident, $addr:ident| $target:expr, $at:expr;
            |$error:ident| $map:expr
        }
    ) => {
        impl $(<$($generics)*>)? $crate::Bytes<$A> for $T {
            type E = $crate::guest_memory::Error;

            #[inline(always)]
            fn write(&$self, buf: &[u8], $addr: $A) -> Result<usize, Self::E> {
                $crate::Bytes::write(&$target, buf, $at).map_err(|$error| $map)
            }
            #[inline(always)]
            fn read(&$self, buf: &mut [u8], $addr: $A) -> Result<usize, Self::E> {
                $crate::Bytes::read(&$target, buf, $at).map_err(|$error| $map)
            }
            #[inline(always)]
            fn write_slice(&$self, buf: &[u8], $addr: $A) -> Result<(), Self::E> {
                $crate::Bytes::write_slice(&$target, buf, $at).map_err(|$error| $map)
            }
            #[inline(always)]
            fn read_slice(&$self, buf: &mut [u8], $addr: $A) -> Result<(), Self::E> {
                $crate::Bytes::read_slice(&$target, buf, $at).map_err(|$error| $map)
            }
            #[inline(always)]
            fn write_obj<T: $crate::DataInit>(&$self, val: T, $addr: $A) -> Result<(), Self::E> {
                $crate::Bytes::write_obj(&$target, val, $at).map_err(|$error| $map)
            }
            #[inline(always)]
            fn read_obj<T: $crate::DataInit>(&$self, $addr: $A) -> Result<T, Self::E> {
                $crate::Bytes::read_obj(&$target, $at).map_err(|$error| $map)
            }
            #[inline(always)]
            fn fill(&$self, byte: u8, len: usize, $addr: $A) -> Result<(), Self::E> {
                $crate::Bytes::fill(&$target, byte, len, $at).map_err(|$error| $map)
            }
            #[inline(always)]
            fn load<T: $crate::AtomicAccess>(
                &$self,
                $addr: $A,
                order: ::core::sync::atomic::Ordering,
            ) -> Result<T, Self::E> {
                $crate::Bytes::load(&$target, $at, order).map_err(|$error| $map)
            }
            #[inline(always)]
            fn store<T: $crate::AtomicAccess>(
                &$self,
                val: T,
                $addr: $A,
                order: ::core::sync::atomic::Ordering,
            ) -> Result<(), Self::E> {
                $crate::Bytes::store(&$target, val, $at, order).map_err(|$error| $map)
            }
            #[inline(always)]
            fn compare_exchange<T: $crate::AtomicAccess>(
                &$self,
                current: T,
                new: T,
                $addr: $A,
                success: ::core::sync::atomic::Ordering,
                failure: ::core::sync::atomic::Ordering,
            ) -> Result<Result<T, T>, Self::E> {
                $crate::Bytes::compare_exchange(&$target, current, new, $at, success, failure)
                    .map_err(|$error| $map)
            }
            #[cfg(feature = "std")]
            #[inline(always)]
            fn write_from<S: $crate::ReadVolatile>(
                &$self,
                $addr: $A,
                src: &mut S,
                count: usize,
            ) -> Result<usize, Self::E> {
                $crate::Bytes::write_from(&$target, $at, src, count).map_err(|$error| $map)
            }
            #[cfg(feature = "std")]
            #[inline(always)]
            fn write_all_from<S: $crate::ReadVolatile>(
                &$self,
                $addr: $A,
                src: &mut S,
                count: usize,
            ) -> Result<(), Self::E> {
                $crate::Bytes::write_all_from(&$target, $at, src, count).map_err(|$error| $map)
            }
            #[cfg(feature = "std")]
            #[inline(always)]
            fn read_into<D: $crate::WriteVolatile>(
                &$self,
                $addr: $A,
                dst: &mut D,
                count: usize,
            ) -> Result<usize, Self::E> {
                $crate::Bytes::read_into(&$target, $at, dst, count).map_err(|$error| $map)
            }
            #[cfg(feature = "std")]
            #[inline(always)]
            fn read_all_into<D: $crate::WriteVolatile>(
                &$self,
                $addr: $A,
                dst: &mut D,
                count: usize,
            ) -> Result<(), Self::E> {
                $crate::Bytes::read_all_into(&$target, $at, dst, count).map_err(|$error| $map)
            }
        }
    };
}
pub(crate) use forward_bytes;
