//! The contract of Engraft.
//!
//! A method is one of four kinds, each with its own small trait, or a composition of several:
//!
//! | kind | trait | acts on | examples |
//! |---|---|---|---|
//! | graft | [`Graft`], [`Adapter`] | one frozen layer | LoRA, BOFT, LoKr, SHiRA |
//! | selection | [`Selection`] | parameters of the model itself | BitFit, linear probe |
//! | model graft | [`ModelGraft`] | several layers, coupled | cross-layer sharing |
//! | site adapter | [`SiteGraft`], [`SiteAdapter`] | hidden states at a named site | bottlenecks, prompts |
//!
//! [`Method`] ties a configuration to its kinds and its declaration, [`AnyMethod`] is a configured
//! method of any type, [`Plan`] says where it goes in a model and what it costs there, and
//! [`Adapted`] owns the model with everything attached. Models are written with [`Linear`] slots
//! and [`Site`]s and implement [`Adaptable`]; on any other Burn module, [`reparameterize`] attaches
//! the grafts that have a weight form.

mod activation;
mod adaptable;
mod adapted;
mod adapter;
mod any_site;
mod aside;
mod bank;
mod base;
mod beside;
mod calibrate;
mod composed;
mod conv2d;
mod counts;
mod ctx;
mod dropout;
mod embedding;
mod entry;
mod erased;
mod error;
mod evolve;
mod evolve_sites;
pub mod file;
mod fold;
mod gradients;
mod grafting;
pub mod grouping;
mod header;
mod input;
mod linear;
mod lookup;
mod merging;
mod meta;
mod method;
mod model_graft;
mod named;
pub mod params;
mod parts;
mod plan;
mod probe;
mod relay;
mod reparameterize;
mod rows;
mod scaling;
mod selection;
mod set;
mod setup;
mod shape;
mod share;
mod site;
mod site_sequence;
mod standardised;
mod statistics;
mod sublayers;
mod switching;
mod targets;
mod text;
mod tied;
mod token_rows;
mod transparent;
mod weight;
mod wrapped;

pub use activation::Activation;
pub use adaptable::{Adaptable, Slot, Slots};
pub use adapted::{Adapted, Attachment, Injection, unknown_method};
pub use adapter::{Adapter, AdapterOps, AnyAdapter, Graft, InitContext};
pub use any_site::{AnySite, SiteOps};
pub use bank::{Bank, BankSpec};
pub use base::FrozenBase;
pub use conv2d::{Conv2d, Image, Patches};
pub use counts::Counts;
pub use ctx::{Ctx, Mode};
pub use dropout::{check_dropout, dropout, refuse_dropout};
pub use embedding::Embedding;
pub use entry::MethodEntry;
pub use erased::Erased;
pub use error::{Error, Result};
pub use evolve::{DynEvolve, Evolve, Evolving, Reset, Time, Trained};
pub use evolve_sites::{DynEvolveSites, EvolveSites, EvolvingSite};
pub use gradients::Gradients;
pub use grouping::Grouping;
pub use header::{Header, TensorInfo};
pub use linear::Linear;
pub use lookup::Lookup;
pub use meta::{AtInit, BaseWeights, Family, Gradient, Kind, MethodMeta};
pub use method::{AnyMethod, DynGraft, DynSiteGraft, Method, Rate};
pub use model_graft::ModelGraft;
pub use named::Named;
pub use parts::Parts;
pub use plan::Plan;
pub use relay::Relay;
pub use reparameterize::{WeightAdapter, reparameterize};
pub use rows::RowChoice;
pub use scaling::{Scaling, admit_rank, positive_rank};
pub use selection::Selection;
pub use set::{AdapterSet, Composition, Switch};
pub use setup::{Average, Fuse, Piece, Setup};
pub use shape::{
    Fold, LayerKind, LayerShape, ModelShapes, ParamShape, Part, SiteKind, SiteShape, Tie,
};
pub use site::{AttentionView, ProjectHeads, ProjectKeysAndValues, Site, SiteAdapter, SiteGraft};
pub use standardised::standardised;
pub use statistics::{Calibration, Needs, Statistics};
pub use sublayers::Sublayers;
pub use targets::{Include, Overrides, Targets, layer_index};
pub use text::Text;
pub use tied::TiedLinear;
pub use token_rows::TokenRows;
pub use weight::{Quantised, Weight};
