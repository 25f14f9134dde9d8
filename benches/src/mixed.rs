//! Inference on a batch whose rows have different adapters.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adapted, Composition, Error, Injection, Mode, Result, RowChoice};
use engraft_models::{Mlp, MlpConfig};
use engraft_tensor::{Init, Key};

use crate::shapes::Shapes;

/// Rows of a batch.
const BATCH: usize = 64;

/// What the rows of a batch go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// The frozen model.
    Base,
    /// The active adapter, chosen for the whole model.
    Active,
    /// The same adapter, chosen row by row.
    One,
    /// Row i has adapter 7 i mod n of n.
    Mixed,
}

impl Rows {
    /// Every choice, with what the comparison calls it.
    pub const ALL: [(&'static str, Self); 4] = [
        ("base", Self::Base),
        ("single_adapter", Self::Active),
        ("mixed_1_adapter", Self::One),
        ("mixed", Self::Mixed),
    ];
}

/// A network with several adapters of one method on all its layers, and an input.
#[derive(Debug)]
pub struct Mixed {
    model: Adapted<Mlp>,
    x: Tensor<3>,
    one: RowChoice,
    mixed: RowChoice,
}

impl Mixed {
    /// The network called `net` with `adapters` adapters of the method called `method`, and a batch
    /// of 64 rows of `tokens` tokens.
    ///
    /// # Errors
    /// An unknown name, or a method that a layer does not admit.
    pub fn new(net: &str, method: &str, adapters: usize, tokens: usize) -> Result<Self> {
        let unknown =
            |what: &str, name: &str| Error::Unsupported(format!("no {what} called {name}"));
        let shapes = Shapes::load();
        let net = shapes.net(net).ok_or_else(|| unknown("net", net))?;
        let found = shapes.method(method);
        let method = found
            .ok_or_else(|| unknown("method", method))?
            .registered()?;
        let device = Device::default();
        let config = MlpConfig::new(&net.dims);
        let mut model = Adapted::new(Mlp::new(&config, &Key::new(0), &device, DType::F32)?);
        for adapter in 0..adapters {
            let injection = Injection::new(adapter as u64);
            model.attach(&format!("a{adapter}"), &method, &injection)?;
        }
        model.activate(&["a0"], Composition::Sum)?;
        let rows = |adapter: &dyn Fn(usize) -> usize| {
            let names: Vec<String> = (0..BATCH).map(|i| format!("a{}", adapter(i))).collect();
            let names: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
            model.rows(&names)
        };
        let (one, mixed) = (rows(&|_| 0)?, rows(&|i| i * 7 % adapters)?);
        let shape = [BATCH, tokens, net.dims[0]];
        let x = Init::Normal { std: 1.0 }.tensor(shape, &Key::new(1), &device, DType::F32);
        Ok(Self {
            model,
            x,
            one,
            mixed,
        })
    }

    /// Gets ready to run these rows.
    pub fn choose(&mut self, rows: Rows) {
        self.model.disable(rows == Rows::Base);
    }

    /// One forward pass of rows that were [chosen](Self::choose).
    pub fn run(&self, rows: Rows) -> Tensor<3> {
        let ctx = self.model.ctx(Mode::Eval);
        let ctx = match rows {
            Rows::Base | Rows::Active => ctx,
            Rows::One => ctx.with_rows(&self.one),
            Rows::Mixed => ctx.with_rows(&self.mixed),
        };
        self.model.model.forward(self.x.clone(), &ctx)
    }
}
