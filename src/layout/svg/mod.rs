//! The map as a picture.
//!
//! Sizes differ by nine orders of magnitude, so it is not to scale: `plan` gives each row a height by the logarithm of
//! its size, `draw` writes what was planned. Text has a fixed pitch, so that its width is known: none overlaps another.

mod draw;
mod plan;
mod style;
mod text;

use alloc::string::{String, ToString};

use super::GuestLayout;
use draw::Picture;

impl GuestLayout {
    /// The map as a picture, in SVG: a file of its own, or part of a page.
    ///
    /// Low addresses are at the bottom. It is not to scale: each entry is as high as its text needs, and higher by the
    /// logarithm of its size; where room is cut short there is a break mark. Reservations are drawn inside of their
    /// memory, allocations inside of their holes, and brackets tell the size of what consists of several entries. The
    /// colours follow the viewer's light or dark scheme. Nothing else is needed to show it, neither fonts nor scripts;
    /// its description is the table, for those who do not see it.
    ///
    /// ```
    /// use memory_model::layout::{GuestLayout, Platform, Zone};
    ///
    /// let layout = GuestLayout::builder(Platform::Riscv64).zone(Zone::new("ram", 2 << 30)).build()?;
    /// assert!(layout.to_svg().starts_with("<svg "));
    /// # Ok::<(), memory_model::layout::LayoutError>(())
    /// ```
    pub fn to_svg(&self) -> String {
        Picture::new(self).to_string()
    }
}
