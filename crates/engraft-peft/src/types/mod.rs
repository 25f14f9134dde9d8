//! The PEFT types that Engraft reads and writes: one file each, one line of [`TYPES`].

mod adalora;
mod adamss;
mod beft;
mod boft;
mod c3a;
mod deft;
mod delora;
mod fourierft;
mod frod;
mod glora;
mod gralora;
mod hira;
mod hra;
mod ia3;
mod lily;
mod loha;
mod lokr;
mod lora;
mod miss;
mod oft;
mod osf;
mod patterns;
mod peanut;
mod psoft;
mod pvera;
mod randlora;
mod road;
mod shira;
mod supertuning;
mod tinylora;
mod trainable_tokens;
mod unilora;
mod vblora;
mod vera;
mod waveft;

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use engraft_core::{LayerKind, LayerShape};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub(crate) use patterns::empty_pattern;
use patterns::{
    common, override_by, pattern, patterns, rank_overrides, ranks, size_patterns, sizes,
};

use crate::config::{Patterns, Reader};
use crate::error::{Error, Result};
use crate::field::Field;
use crate::pair::Pair;
use crate::whole;

/// Tensors by key.
pub(crate) type Tensors = BTreeMap<String, TensorData>;

/// A table of configuration keys.
pub(crate) type Table = Map<String, Value>;

/// All types, alphabetical.
pub(crate) static TYPES: &[&dyn PeftType] = &[
    &adalora::Adalora,
    &adamss::Adamss,
    &beft::Beft,
    &boft::Boft,
    &c3a::C3a,
    &deft::Deft,
    &delora::Delora,
    &fourierft::FourierFt,
    &frod::Frod,
    &glora::Glora,
    &gralora::Gralora,
    &hira::Hira,
    &hra::Hra,
    &ia3::Ia3,
    &lily::Lily,
    &loha::Loha,
    &lokr::Lokr,
    &lora::Lora,
    &miss::Miss,
    &oft::Oft,
    &osf::Osf,
    &psoft::Psoft,
    &peanut::Peanut,
    &pvera::Pvera,
    &randlora::RandLora,
    &road::Road,
    &shira::Shira,
    &tinylora::TinyLora,
    &trainable_tokens::TrainableTokens,
    &unilora::UniLora,
    &vblora::VbLora,
    &supertuning::Supertuning,
    &vera::Vera,
    &waveft::WaveFt,
];

/// A type of adapter in PEFT.
pub(crate) trait PeftType: Sync {
    /// `peft_type`.
    fn name(&self) -> &'static str;

    /// Ids of the methods that are written as this type.
    fn methods(&self) -> &'static [&'static str];

    /// Keys common to other types that this one's configuration lacks.
    fn lacks(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether PEFT has this type for layers of a kind.
    fn takes(&self, kind: LayerKind) -> bool {
        kind == LayerKind::Linear
    }

    /// Whether PEFT saves the frozen weight of an embedding along that is adapted.
    fn saves_base(&self) -> bool {
        true
    }

    /// Reads what says how the adapter computes. Keys common to all types have been read.
    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings>;

    /// The keys that [`read`](Self::read) reads, written for these layers, and PEFT's patterns.
    ///
    /// # Errors
    /// Settings that PEFT cannot express, as a reason.
    fn write(&self, layers: &[Configured]) -> Result<Written, String>;

    /// The parameters on a layer.
    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let _ = layer;
        Ok(Vec::new())
    }

    /// Parameters of a method that are in no file of PEFT: its init computes them from the base.
    fn derived(&self, method: &str) -> &'static [&'static str] {
        let _ = method;
        &[]
    }

    /// Frozen parameters on a layer that PEFT keeps in memory but does not save, and that its file
    /// does not determine.
    fn unsaved(&self, layer: &Configured) -> Result<Vec<Field>> {
        let _ = layer;
        Ok(Vec::new())
    }

    /// Why the file does not determine them, where there are any.
    fn why_unsaved(&self) -> &'static str {
        ""
    }

    /// Frozen state shared by all layers.
    fn shared(&self, layers: &[Configured]) -> Vec<Field> {
        let _ = layers;
        Vec::new()
    }

    /// All tensors of an adapter: of [`shared`](Self::shared) and [`fields`](Self::fields), unless
    /// layers are coupled in another way.
    fn pairs(&self, layers: &[Configured], name: &str) -> Result<Vec<Pair>> {
        let mut pairs: Vec<Pair> = self
            .shared(layers)
            .into_iter()
            .map(|field| field.in_bank(name))
            .collect();
        for layer in layers {
            let fields = self.fields(layer)?;
            pairs.extend(
                fields
                    .into_iter()
                    .map(|field| field.on_layer(&layer.layer, name)),
            );
        }
        Ok(pairs)
    }

    /// Brings a file's tensors into the form of one tensor for each of [`pairs`](Self::pairs), and
    /// completes `settings` by what only they say. `frozen` is what the caller knows of state that
    /// PEFT does not save.
    fn unpack(
        &self,
        layers: &[LayerShape],
        settings: &mut Settings,
        tensors: &mut Tensors,
        frozen: &Tensors,
    ) -> Result<()> {
        let _ = (layers, settings, tensors, frozen);
        Ok(())
    }

    /// The inverse of [`unpack`](Self::unpack), for all or some of the tensors.
    fn pack(&self, layers: &[Configured], tensors: &mut Tensors) -> Result<(), String> {
        let _ = (layers, tensors);
        Ok(())
    }
}

/// How an adapter computes, read from a configuration of PEFT.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// Id of the method.
    pub(crate) method: &'static str,
    /// Its configuration.
    pub(crate) config: Table,
    /// What differs on a layer, by path.
    pub(crate) overrides: BTreeMap<String, Table>,
    /// The seed of what is not in the file.
    pub(crate) seed: u64,
    /// Shared tensors by PEFT's key, grown from the seed, for files that lack them.
    pub(crate) grown: BTreeMap<String, TensorData>,
}

/// A configuration of PEFT to be written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) keys: Table,
    pub(crate) rank_pattern: Patterns,
    pub(crate) alpha_pattern: Patterns,
}

/// A layer with the method as configured for it.
#[derive(Debug, Clone)]
pub(crate) struct Configured {
    /// The layer.
    pub(crate) layer: LayerShape,
    /// Id of the method.
    pub(crate) method: String,
    /// The method's configuration on this layer.
    pub(crate) config: Table,
}

impl Configured {
    /// A value of the configuration.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.config.get(key).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|error| {
            Error::Unsupported(format!(
                "{} at {}: `{key}`: {error}",
                self.method, self.layer.path
            ))
        })
    }

    /// A value of the configuration, for a writer.
    pub(crate) fn value<T: DeserializeOwned>(&self, key: &str) -> Result<T, String> {
        self.get(key).map_err(|error| error.to_string())
    }
}

/// The names of all types, those of [`whole`] included.
pub(crate) fn names() -> Vec<&'static str> {
    let whole = whole::WHOLE.iter().map(|kind| kind.name());
    TYPES.iter().map(|kind| kind.name()).chain(whole).collect()
}

/// Whether there is a type of this name.
///
/// # Errors
/// If not: the message names those there are.
pub(crate) fn known(name: &str) -> Result<()> {
    match whole::find(name) {
        Some(_) => Ok(()),
        None => find(name).map(drop),
    }
}

/// The type of this name.
pub(crate) fn find(name: &str) -> Result<&'static dyn PeftType> {
    TYPES
        .iter()
        .copied()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| Error::UnknownType {
            found: name.to_owned(),
            supported: names().join(", "),
        })
}

/// The type that a method is written as.
pub(crate) fn of_method(id: &str) -> Result<&'static dyn PeftType> {
    TYPES
        .iter()
        .copied()
        .find(|kind| kind.methods().contains(&id))
        .ok_or_else(|| {
            let known: Vec<&str> = TYPES
                .iter()
                .flat_map(|kind| kind.methods())
                .copied()
                .collect();
            Error::Unsupported(format!(
                "method `{id}` is not written as a PEFT adapter; those that are: {}",
                known.join(", ")
            ))
        })
}

/// A table from pairs.
pub(crate) fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}
