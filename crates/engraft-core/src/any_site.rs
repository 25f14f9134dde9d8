//! Site adapters whose type has been forgotten.

use std::any::Any;

use burn::tensor::Tensor;

use crate::ctx::Ctx;
use crate::erased::Erased;
use crate::site::{AttentionView, SiteAdapter};

/// Table of the operations of a site adapter whose type has been forgotten.
#[derive(Debug)]
pub struct SiteOps {
    pub(crate) wrap: fn(&dyn Any, Tensor<2>, Tensor<2>, &Ctx) -> Tensor<2>,
    pub(crate) diagonal: fn(&dyn Any) -> Option<[Tensor<1>; 2]>,
    pub(crate) extend_key_value: fn(&dyn Any, Tensor<4>, Tensor<4>, &Ctx) -> (Tensor<4>, Tensor<4>),
    pub(crate) extend_sequence: fn(&dyn Any, Tensor<3>, &Ctx) -> Tensor<3>,
    pub(crate) continue_sequence: fn(&dyn Any, Tensor<3>, &Ctx) -> Tensor<3>,
    pub(crate) positions: fn(&dyn Any) -> usize,
    pub(crate) attend: fn(&dyn Any, Tensor<3>, &AttentionView<'_>, &Ctx) -> Tensor<3>,
    pub(crate) surrogate: fn(&dyn Any) -> AnySite,
    pub(crate) fuse: fn(&dyn Any, Tensor<2>, Vec<Tensor<2>>, &Ctx) -> Tensor<2>,
    pub(crate) fuses: bool,
}

/// A site adapter of any method.
pub type AnySite = Erased<SiteOps>;

fn typed<A: SiteAdapter>(module: &dyn Any) -> &A {
    module
        .downcast_ref()
        .expect("the table was made for this type")
}

impl AnySite {
    /// Forgets the adapter's type.
    pub fn new<A: SiteAdapter>(adapter: A) -> Self {
        Self::from_parts(
            adapter,
            const {
                &SiteOps {
                    wrap: |module, input, output, ctx| typed::<A>(module).wrap(input, output, ctx),
                    diagonal: |module| typed::<A>(module).diagonal(),
                    extend_key_value: |module, keys, values, ctx| {
                        typed::<A>(module).extend_key_value(keys, values, ctx)
                    },
                    extend_sequence: |module, tokens, ctx| {
                        typed::<A>(module).extend_sequence(tokens, ctx)
                    },
                    continue_sequence: |module, tokens, ctx| {
                        typed::<A>(module).continue_sequence(tokens, ctx)
                    },
                    positions: |module| typed::<A>(module).positions(),
                    attend: |module, output, view, ctx| {
                        typed::<A>(module).attend(output, view, ctx)
                    },
                    surrogate: |module| AnySite::new(typed::<A>(module).surrogate()),
                    fuse: |module, output, changes, ctx| {
                        typed::<A>(module).fuse(output, changes, ctx)
                    },
                    fuses: A::FUSES,
                }
            },
        )
    }

    /// See [`SiteAdapter::wrap`].
    pub(crate) fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        (self.ops().wrap)(self.any(), input, output, ctx)
    }

    /// See [`SiteAdapter::fuse`].
    pub(crate) fn fuse(&self, output: Tensor<2>, changes: Vec<Tensor<2>>, ctx: &Ctx) -> Tensor<2> {
        (self.ops().fuse)(self.any(), output, changes, ctx)
    }

    /// See [`SiteAdapter::FUSES`].
    pub(crate) fn fuses(&self) -> bool {
        self.ops().fuses
    }

    /// The adapter as what it is, if it is an `A`.
    pub fn downcast<A: SiteAdapter>(&self) -> Option<&A> {
        self.any().downcast_ref()
    }
}
