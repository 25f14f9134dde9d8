//! A plain model in place of an adapted one.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::adaptable::{Adaptable, Slot};
use crate::adapted::Adapted;
use crate::error::{Error, Result};
use crate::set::AdapterSet;

/// What a parameter's last axis is multiplied by, and what is then added to it.
type Map = (Tensor<1>, Option<Tensor<1>>);

impl<M: Adaptable> Adapted<M> {
    /// The model without adapters that computes what the active adapters make of it: grafts go into
    /// the weight and bias of their layer (one without a bias gets one where needed), maps
    /// h -> g . h + o at hidden sites into what computes h (see [`Fold`](crate::Fold)): the gain and
    /// offset of a norm, the weight and bias of a projection. Equal to rounding. The adapted model is
    /// left as it is.
    ///
    /// # Errors
    /// An active adapter that has no weight form, one that acts at a site and is not such a map, a
    /// site with nothing in front that takes the map up; the message names the site. A merged model.
    pub fn fold(&self) -> Result<M> {
        let mut folded = self.clone();
        let shapes = folded.model.shapes();
        let (mut maps, mut outcome) = (Vec::new(), Ok(()));
        folded.each_slot(|path, slot| {
            if let Slot::Site(site) = slot {
                match site.diagonal() {
                    Ok(None) => {}
                    Ok(Some(map)) => maps.push((path.to_owned(), map)),
                    Err(name) if outcome.is_ok() => {
                        outcome = Err(refused(path, format!("the adapter `{name}` is not a map h -> g . h + o that something in front of it could take up; deploy it as an adapter")));
                    }
                    Err(_) => {}
                }
                site.adapters = AdapterSet::default();
            }
        });
        outcome?;
        folded.merge()?;
        folded.model.untie();
        folded.each_slot(|_, slot| {
            if let Slot::Linear(linear) = slot {
                linear.settle();
            }
        });
        let mut by_path = BTreeMap::new();
        for (path, [g, o]) in maps {
            let fold = shapes
                .folds
                .iter()
                .find(|fold| fold.site == path)
                .ok_or_else(|| {
                    refused(&path, "nothing in front of it takes a map up".to_owned())
                })?;
            let shifted = fold
                .shifted
                .as_ref()
                .ok_or_else(|| refused(&path, "what is in front of it has no offset".to_owned()))?;
            let (g, o) = (g.detach(), o.detach());
            for param in &fold.scaled {
                let offset = (param == shifted).then(|| o.clone());
                by_path.insert(param.clone(), (g.clone(), offset));
            }
        }
        let mut mapper = Apply {
            path: Vec::new(),
            maps: by_path,
        };
        let model = folded.model.map(&mut mapper);
        match mapper.maps.into_keys().next() {
            None => Ok(model),
            Some(path) => Err(refused(&path, "the model has no such parameter".to_owned())),
        }
    }
}

fn refused(path: &str, reason: String) -> Error {
    Error::NoWeightForm {
        method: "fold".to_owned(),
        path: path.to_owned(),
        reason,
    }
}

/// Applies each map to the parameter at its path, and forgets it.
struct Apply {
    path: Vec<String>,
    maps: BTreeMap<String, Map>,
}

impl ModuleMapper for Apply {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((g, o)) = self.maps.remove(&self.path.join(".")) else {
            return param;
        };
        param.map(|old| {
            let (trained, dtype) = (old.is_require_grad(), old.dtype());
            let row = |vector: Tensor<1>| {
                let mut shape = [1; D];
                shape[D - 1] = vector.dims()[0];
                vector.reshape(shape)
            };
            let scaled = old.detach().cast(g.dtype()) * row(g);
            let new = match o {
                Some(o) => scaled + row(o),
                None => scaled,
            };
            new.cast(dtype).set_require_grad(trained)
        })
    }
}
