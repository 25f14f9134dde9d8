//! Engraft: parameter-efficient fine-tuning for Burn.
//!
//! ```
//! use burn::tensor::{DType, Device};
//! use engraft::{Adapted, Injection, Key, Mode, method};
//! use engraft_models::{Mlp, MlpConfig};
//!
//! # fn main() -> engraft::Result<()> {
//! let device = Device::default();
//! let model = Mlp::new(&MlpConfig::new(&[16, 32, 10]), &Key::new(0), &device, DType::F32)?;
//! let mut adapted = Adapted::new(model);
//! let lora = method("lora", &serde_json::json!({"rank": 4, "alpha": 8}))?;
//! adapted.attach("default", &lora, &Injection::new(0))?;
//! assert!(adapted.trainable().iter().all(|param| param.path.contains("adapters")));
//! # let x = burn::tensor::Tensor::<2>::zeros([1, 16], &device);
//! let logits = adapted.model.forward(x, &adapted.ctx(Mode::Eval));
//! # let _ = logits;
//! # Ok(())
//! # }
//! ```
//!
//! Any other Burn module takes the grafts that have a weight form, without being edited:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::Device;
//! use engraft::{Targets, method, reparameterize};
//!
//! #[derive(Module, Debug)]
//! struct ThirdParty { fc1: Linear, fc2: Linear }
//!
//! # fn main() -> engraft::Result<()> {
//! let device = Device::default();
//! let model = ThirdParty { fc1: LinearConfig::new(8, 16).init(&device), fc2: LinearConfig::new(16, 4).init(&device) };
//! let boft = method("boft", &serde_json::json!({"blocks": {"size": 4}, "factors": 2}))?;
//! let adapted = reparameterize(model, &boft, &Targets::names(&["fc1"]), 0)?;
//! # let _ = adapted;
//! # Ok(())
//! # }
//! ```

mod registry;

pub use engraft_core::{
    Adaptable, Adapted, AnyMethod, Composition, Counts, Ctx, Error, Injection, Mode, Plan, Result,
    RowChoice, Targets, reparameterize,
};
pub use engraft_tensor::Key;
pub use registry::{FUSIONS, METHODS, entry, method};
