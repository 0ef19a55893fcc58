//! What the fuzz targets share: an input becomes a project, and what holds for
//! every project is checked. The compiler's own tests include `properties.rs`
//! as well, so that both look at the same things.

mod properties;

pub use properties::{Target, check};
