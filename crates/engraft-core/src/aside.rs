//! Setting adapters aside while the model they are grafted onto is changed.
//!
//! Burn changes a module by mapping all of it. With its adapters set aside a model is as small as
//! it was before they came, so that attaching or activating one of thousands takes the same time.

use crate::adaptable::{Adaptable, Slot};
use crate::adapted::Adapted;
use crate::adapter::AnyAdapter;
use crate::any_site::AnySite;
use crate::base::FrozenBase;
use crate::named::Named;
use crate::set::Switch;

/// What was taken out of a slot.
#[derive(Debug)]
enum Aside {
    Linear(Named<AnyAdapter>, Named<FrozenBase>),
    Site(Named<AnySite>),
}

/// Which adapters of a model act.
#[derive(Debug)]
pub(crate) struct Activity {
    switches: Vec<Switch>,
    disabled: bool,
    live: Vec<usize>,
    suspended: Vec<usize>,
}

impl<M: Adaptable> Adapted<M> {
    /// Runs `change` on the model without its adapters, but for the one attached last if it is
    /// called `kept`.
    pub(crate) fn with_aside<R>(
        &mut self,
        kept: Option<&str>,
        change: impl FnOnce(&mut Self) -> R,
    ) -> R {
        let mut aside = Vec::new();
        self.each_slot(|_, slot| {
            aside.push(match slot {
                Slot::Linear(linear) => {
                    let (adapters, bases) = linear.set_aside(kept);
                    Aside::Linear(adapters, bases)
                }
                Slot::Site(site) => Aside::Site(site.adapters.set_aside(kept)),
            });
        });
        let outcome = change(self);
        let mut aside = aside.into_iter();
        self.each_slot(|path, slot| match (slot, aside.next()) {
            (Slot::Linear(linear), Some(Aside::Linear(adapters, bases))) => {
                linear.put_back(adapters, bases);
            }
            (Slot::Site(site), Some(Aside::Site(adapters))) => site.adapters.put_back(adapters),
            _ => unreachable!("{path}: a model shows the same slots twice"),
        });
        outcome
    }

    /// Which adapters act now.
    pub(crate) fn activity(&mut self) -> Activity {
        let mut switches = Vec::new();
        self.each_slot(|_, slot| {
            switches.push(match slot {
                Slot::Linear(linear) => linear.adapters.switch().clone(),
                Slot::Site(site) => site.adapters.switch().clone(),
            });
        });
        Activity {
            switches,
            disabled: self.disabled,
            live: self.live.clone(),
            suspended: self.suspended.clone(),
        }
    }

    /// Takes the adapter attached last out again and makes those act that acted `before`.
    pub(crate) fn undo(&mut self, name: &str, before: Activity) {
        self.remove(name).expect("it was just attached");
        let mut switches = before.switches.into_iter();
        self.each_slot(|_, slot| {
            let switch = switches.next().unwrap_or_default();
            match slot {
                Slot::Linear(linear) => linear.adapters.restore(switch),
                Slot::Site(site) => site.adapters.restore(switch),
            }
        });
        self.disabled = before.disabled;
        self.suspended = before.suspended;
        self.unpark(before.live);
    }
}
