//! The Burn boundary of Engraft.
//!
//! Everything that has to know how Burn names a device, draws a random number or lays out a
//! tensor lives here, so that the method crates read as mathematics:
//!
//! - [`device`]: a device from its name (`flex`, `ndarray`, `wgpu`, `cuda`, `cuda:1`);
//! - [`Key`]: random streams keyed by (run seed, parameter path, role), identical on every
//!   device, thread order and precision;
//! - [`Init`]: host-side initialisers over those streams;
//! - [`MersenneTwister`]: PyTorch's generator, where a method's frozen state is defined by it;
//! - [`ops`]: operations with kernels and backward passes of their own;
//! - [`cayley`]: batches of rotations from skew-symmetric matrices;
//! - [`compact`]: products of reflections in compact form;
//! - [`inverse()`]: inverses of small matrices on the device;
//! - [`bridge`]: tensors to host matrices and back, in the tensor's own precision;
//! - [`host`]: large matrices decomposed where they lie.

pub mod bridge;
pub mod cayley;
pub mod compact;
mod device;
pub mod host;
mod init;
mod inverse;
mod mersenne;
mod nearest;
pub mod ops;
mod seed;

pub use device::{BUILT_BACKENDS, DeviceError, device};
pub use init::Init;
pub use inverse::inverse;
pub use mersenne::MersenneTwister;
pub use nearest::{nearest, suggestion};
pub use seed::Key;
