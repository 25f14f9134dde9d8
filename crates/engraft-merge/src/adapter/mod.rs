//! Adapters as files, read module by module as what they change.
//!
//! Host forms are here for the types whose update is known from their tensors alone (LoRA, rsLoRA,
//! LoHa, LoKr, VeRA, SHiRA, IA3) or with the base's weight (DoRA), and for deltas that were exported.

mod config;
mod delta;
mod ia3;
mod loha;
mod lokr;
mod lora;
mod parts;
mod shira;
mod vera;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use config::{CONFIG_FILE, Config};
pub use delta::{DELTA_CONFIG, DELTA_FILE};
pub use lora::LoraFactors;

use crate::base::{Base, Layout};
use crate::error::{Error, Result};
use crate::file::{HostTensor, TensorFiles, WEIGHTS};
use crate::update::Update;
use parts::Parts;

/// Name of the tensors' file.
pub const TENSOR_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts in front of a module's path.
pub const MODEL: &str = "base_model.model.";

/// A type of adapter: how its tensors make an update.
trait Form: Sync {
    /// PEFT's name of the type.
    fn name(&self) -> &'static str;

    /// The fields of a module, without the module's path.
    fn fields(&self) -> &'static [&'static str];

    /// Why an adapter of this configuration has no host form, if it has none.
    fn refuses(&self, config: &Config) -> Option<String> {
        let _ = config;
        None
    }

    /// How the module's weight lies in the base.
    fn layout(&self, config: &Config, module: &str, shapes: &Shapes<'_>) -> Layout {
        let _ = (module, shapes);
        match config.is_set("fan_in_fan_out") {
            true => Layout::Transposed,
            false => Layout::Linear,
        }
    }

    /// dW and db of a module.
    fn update(&self, parts: &Parts<'_>) -> Result<Update>;
}

/// The shape of a module's field.
type Shapes<'a> = dyn Fn(&str) -> Vec<usize> + 'a;

static FORMS: &[&dyn Form] = &[
    &lora::Lora,
    &loha::Loha,
    &lokr::Lokr,
    &vera::Vera,
    &shira::Shira,
    &ia3::Ia3,
    &delta::Delta,
];

/// A module of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path in the adapter's file.
    stem: String,
    /// How its weight lies in the base.
    pub layout: Layout,
}

/// An adapter in its files.
pub struct Adapter {
    name: String,
    directory: PathBuf,
    config: Config,
    files: TensorFiles,
    form: &'static dyn Form,
    modules: BTreeMap<String, Module>,
    /// Parameters of the model that the adapter has whole: their paths, and names in the file.
    saved: BTreeMap<String, String>,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter")
            .field("name", &self.name)
            .field("directory", &self.directory)
            .field("type", &self.form.name())
            .finish_non_exhaustive()
    }
}

/// Whether the adapter of a directory has a host form, or why not: then its deltas have to be
/// exported with its base.
///
/// # Errors
/// Files that are missing or malformed.
pub fn host_form(directory: &Path) -> Result<std::result::Result<(), String>> {
    if directory.join(DELTA_CONFIG).exists() {
        return Ok(Ok(()));
    }
    if !directory.join(CONFIG_FILE).exists() && directory.join("engraft.json").exists() {
        return Ok(Err("it is in Engraft's own format".to_owned()));
    }
    Ok(form_of(&Config::read(directory)?).map(|_| ()))
}

fn form_of(config: &Config) -> std::result::Result<&'static dyn Form, String> {
    let wanted = config.peft_type();
    let Some(form) = FORMS.iter().find(|form| form.name() == wanted) else {
        let known: Vec<&str> = FORMS.iter().map(|form| form.name()).collect();
        return Err(format!(
            "type `{wanted}` has no host form; those with one: {}",
            known.join(", ")
        ));
    };
    match form.refuses(config) {
        Some(reason) => Err(reason),
        None => Ok(*form),
    }
}

impl Adapter {
    /// Opens the adapter of a directory: PEFT's two files, or exported deltas. `name` is how messages
    /// and tables call it.
    ///
    /// # Errors
    /// Files that are missing, truncated or malformed; a type without a host form (the message says
    /// what would work); tensors that do not belong to the type.
    pub fn open(name: &str, directory: &Path) -> Result<Self> {
        if directory.join(DELTA_CONFIG).exists() {
            let (config, files) = delta::open(directory)?;
            return Self::from_parts(name, directory, config, files);
        }
        let config = Config::read(directory)?;
        let tensors = directory.join(TENSOR_FILE);
        if !tensors.exists() && directory.join("adapter_model.bin").exists() {
            let reason = format!(
                "{} has only adapter_model.bin, a pickle: save it again with PEFT's `save_pretrained`, which writes {TENSOR_FILE}",
                directory.display()
            );
            return Err(Error::adapter(name, reason));
        }
        Self::from_parts(name, directory, config, TensorFiles::open(&tensors)?)
    }

    /// Opens an adapter as it is on the residual that its init left of the base (PiSSA, OLoRA, CorDA):
    /// the factors alone, without what was taken from the base.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on_residual(name: &str, directory: &Path) -> Result<Self> {
        let config = Config::read(directory)?.with([("init_lora_weights", true.into())]);
        let files = TensorFiles::open(&directory.join(TENSOR_FILE))?;
        Self::from_parts(name, directory, config, files)
    }

    /// An adapter of a configuration and tensors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_parts(
        name: &str,
        directory: &Path,
        config: Config,
        files: TensorFiles,
    ) -> Result<Self> {
        let form = form_of(&config).map_err(|reason| {
            let help = "export its deltas with the base (`cargo xtask merge` does, given `base`)";
            Error::adapter(name, format!("{reason}: {help}"))
        })?;
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        let mut saved = BTreeMap::new();
        for key in files.infos().keys() {
            let inner = key.strip_prefix(MODEL).unwrap_or(key);
            let field = form.fields().iter().find(|field| {
                let front = inner.strip_suffix(**field);
                front.is_some_and(|front| front.ends_with('.'))
            });
            match field {
                Some(field) => {
                    let cut = |path: &str| path[..path.len() - field.len() - 1].to_owned();
                    found.insert(cut(inner), cut(key));
                }
                None if inner.ends_with(delta::SAVED) => {
                    let path = inner.trim_end_matches(delta::SAVED);
                    saved.insert(path.to_owned(), key.clone());
                }
                None if key.starts_with(MODEL) => {
                    saved.insert(inner.replace(".base_layer.", "."), key.clone());
                }
                // What modules share.
                None => {}
            }
        }
        if found.is_empty() {
            let reason = format!("has no tensor of type {}", form.name());
            return Err(Error::adapter(name, reason));
        }
        let modules = found.into_iter().map(|(path, stem)| {
            let shapes = |field: &str| {
                let info = files.infos().get(&format!("{stem}.{field}"));
                info.map_or(Vec::new(), |info| info.shape.clone())
            };
            let layout = form.layout(&config, &path, &shapes);
            (
                path,
                Module {
                    stem: stem.clone(),
                    layout,
                },
            )
        });
        let modules = modules.collect();
        Ok(Self {
            name: name.to_owned(),
            directory: directory.to_owned(),
            config,
            files,
            form,
            modules,
            saved,
        })
    }

    /// How messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// PEFT's name of its type; `DELTA` for exported deltas.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        self.form.name()
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its tensors.
    #[must_use]
    pub fn files(&self) -> &TensorFiles {
        &self.files
    }

    /// The modules it changes, by their path in the model.
    #[must_use]
    pub fn modules(&self) -> &BTreeMap<String, Module> {
        &self.modules
    }

    /// Parameters that it has whole instead of a change: heads, biases, embeddings. Their paths in the
    /// model.
    pub fn saved(&self) -> impl Iterator<Item = &str> {
        self.saved.keys().map(String::as_str)
    }

    /// A parameter that it has whole.
    ///
    /// # Errors
    /// One that it has not, or numbers that are not finite.
    pub fn saved_tensor(&self, path: &str) -> Result<HostTensor> {
        let key = self.saved.get(path).ok_or_else(|| {
            Error::adapter(&self.name, format!("has no parameter {path} of the model"))
        })?;
        let read = self.files.read(key);
        read.map_err(|error| Error::adapter(&self.name, error))
    }

    /// The factors of a module of a LoRA.
    ///
    /// # Errors
    /// An adapter of another type, a module that it lacks, numbers that are not finite.
    pub fn lora_factors(&self, module: &str) -> Result<LoraFactors> {
        if self.type_name() != "LORA" {
            let reason = format!("is {}, which has no factors A and B", self.type_name());
            return Err(Error::adapter(&self.name, reason));
        }
        LoraFactors::read(&self.parts(module, None)?)
    }

    /// A tensor of a module.
    ///
    /// # Errors
    /// One that is not there, numbers that are not finite.
    pub fn tensor(&self, module: &str, field: &str) -> Result<HostTensor> {
        self.parts(module, None)?.tensor(field)
    }

    /// The numbers of a module's own tensors, one after the other, as the file has them.
    ///
    /// # Errors
    /// A module that the adapter lacks, numbers that are not finite.
    pub fn parameters(&self, module: &str) -> Result<Vec<f32>> {
        let known = self.modules.get(module);
        let known =
            known.ok_or_else(|| Error::module(&self.name, module, "the adapter lacks it"))?;
        let mut numbers = Vec::new();
        for field in self.form.fields() {
            let key = format!("{}.{field}", known.stem);
            let info = self.files.infos().get(&key);
            if info.is_some_and(|info| WEIGHTS.contains(&info.dtype)) {
                let read = self.files.read(&key);
                let read = read.map_err(|error| Error::module(&self.name, module, error))?;
                numbers.extend(read.data);
            }
        }
        Ok(numbers)
    }

    fn parts<'a>(&'a self, module: &'a str, base: Option<&'a Base>) -> Result<Parts<'a>> {
        match self.modules.contains_key(module) {
            true => Ok(Parts {
                adapter: self,
                module,
                base,
            }),
            false => Err(Error::module(&self.name, module, "the adapter lacks it")),
        }
    }

    /// dW and db of a module, exactly. `base` is needed by DoRA.
    ///
    /// # Errors
    /// A module that the adapter lacks, tensors that are missing or of shapes that do not fit, NaN or
    /// infinite numbers, a base that is missing.
    pub fn update(&self, module: &str, base: Option<&Base>) -> Result<Update> {
        let parts = self.parts(module, base)?;
        self.form.update(&parts).map_err(|error| match error {
            Error::Linalg(_) | Error::Input(_) => parts.error(error),
            other => other,
        })
    }
}
