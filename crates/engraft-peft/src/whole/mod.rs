//! The PEFT types that are not an adapter on each of some layers: parameters of the model itself,
//! trained tokens in front of a text, a model beside the model. One file each, one line of [`WHOLE`].

mod ln_tuning;
pub(crate) mod prompts;
mod shadow;

use engraft_core::{Attachment, Injection, ModelShapes, SiteKind};

use crate::config::Reader;
use crate::error::Result;
use crate::pair::Pair;
use crate::types::{Table, Tensors};

/// All of them, alphabetical.
pub(crate) static WHOLE: &[&dyn WholeType] = &[
    &prompts::AdaptionPrompt,
    &prompts::Cartridge,
    &prompts::Cpt,
    &ln_tuning::LnTuning,
    &prompts::MultitaskPromptTuning,
    &prompts::PrefixTuning,
    &prompts::PromptTuning,
    &prompts::PTuning,
    &shadow::Shadow,
];

/// A type of adapter in PEFT that is read and written for the model as a whole.
pub(crate) trait WholeType: Sync {
    /// `peft_type`.
    fn name(&self) -> &'static str;

    /// Ids of the methods that are written as this type.
    fn methods(&self) -> &'static [&'static str];

    /// Reads the configuration, the keys of every configuration aside, and brings the file's tensors
    /// into the form of one tensor for each pair.
    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        name: &str,
    ) -> Result<Whole>;

    /// The keys that [`read`](Self::read) reads, and the tensors.
    ///
    /// # Errors
    /// Settings that PEFT cannot express, as a reason.
    fn write(
        &self,
        attachment: &Attachment,
        shapes: &ModelShapes,
    ) -> Result<(Table, Vec<Pair>), String>;

    /// Where a file holds what the adapter computes there, not the parameters it computes it from:
    /// `prompt_embeddings`.
    fn computed(&self, attachment: &Attachment) -> Option<SiteKind> {
        let _ = attachment;
        None
    }

    /// The inverse of what [`read`](Self::read) did to the tensors, for all or some of them.
    fn pack(&self, tensors: &mut Tensors) -> Result<(), String> {
        let _ = tensors;
        Ok(())
    }
}

/// An adapter of such a type in Engraft's terms.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Id of the method.
    pub(crate) method: &'static str,
    /// Its configuration.
    pub(crate) config: Table,
    /// Where it goes.
    pub(crate) injection: Injection,
    /// Its tensors.
    pub(crate) pairs: Vec<Pair>,
    /// Parameters that the method computes from the base.
    pub(crate) derived: &'static [&'static str],
}

/// The type of this name.
pub(crate) fn find(name: &str) -> Option<&'static dyn WholeType> {
    WHOLE.iter().copied().find(|kind| kind.name() == name)
}

/// The type that a method is written as.
pub(crate) fn of_method(id: &str) -> Option<&'static dyn WholeType> {
    WHOLE
        .iter()
        .copied()
        .find(|kind| kind.methods().contains(&id))
}
