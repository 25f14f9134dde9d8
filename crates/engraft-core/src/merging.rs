//! Folding adapters into the base weights, and out again.

use crate::adaptable::{Adaptable, Slot, Slots};
use crate::adapted::Adapted;
use crate::ctx::{Ctx, Mode};
use crate::error::{Error, Result};

impl<M: Adaptable> Adapted<M> {
    /// Folds the active adapters into the base weights; all of them, or none.
    ///
    /// # Errors
    /// If an active adapter acts at a site, or has no weight form; the message names it. If
    /// adapters are merged already; they stay so.
    pub fn merge(&mut self) -> Result<()> {
        self.refuse_while_merged()?;
        let method = self
            .attachments()
            .last()
            .map_or_else(String::new, |attachment| attachment.method.clone());
        let Self { model, bank, .. } = self;
        let ctx = Ctx::new(bank, Mode::Eval);
        let mut outcome = Ok(());
        let mut fold = |path: &str, slot: Slot<'_>| {
            let merged = match slot {
                Slot::Linear(linear) if linear.adapters.active().is_empty() => Ok(()),
                Slot::Linear(linear) => linear.merge(&ctx),
                Slot::Site(site) if site.adapters.active().is_empty() => Ok(()),
                Slot::Site(_) => Err(Error::NoWeightForm {
                    method: method.clone(),
                    path: path.to_owned(),
                    reason: "it acts on hidden states; deploy it as an adapter".to_owned(),
                }),
            };
            if outcome.is_ok() {
                outcome = merged;
            }
        };
        model.slots(&mut Slots::new(&mut fold));
        if outcome.is_err() {
            self.unmerge();
        }
        outcome
    }

    /// Restores the base weights from before [`merge`](Self::merge), bit by bit.
    pub fn unmerge(&mut self) {
        self.each_slot(|_, slot| {
            if let Slot::Linear(linear) = slot {
                linear.unmerge();
            }
        });
    }

    /// Refuses what cannot be done while an adapter is merged.
    pub(crate) fn refuse_while_merged(&mut self) -> Result<()> {
        let mut merged = None;
        self.each_slot(|path, slot| match slot {
            Slot::Linear(linear) if linear.is_merged() => merged = Some(path.to_owned()),
            _ => {}
        });
        match merged {
            Some(path) => Err(Error::Unsupported(format!(
                "an adapter is merged into {path}; unmerge first"
            ))),
            None => Ok(()),
        }
    }
}
