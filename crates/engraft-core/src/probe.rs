//! Gradients of an adapter's own parameters before it is trained.

use burn::tensor::Tensor;

use crate::adaptable::Adaptable;
use crate::adapted::{Adapted, Injection};
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::method::AnyMethod;
use crate::statistics::{Calibration, add};

impl<M: Adaptable> Adapted<M> {
    /// Attaches `probe` for as long as the batches last and returns the summed gradients of its
    /// parameters at each site. The model is left as it was.
    pub(crate) fn probe<B>(
        &mut self,
        probe: &AnyMethod,
        injection: &Injection,
        batches: impl IntoIterator<Item = B>,
        loss: &mut impl FnMut(&Self, B) -> Tensor<1>,
    ) -> Result<Calibration> {
        let taken: Vec<String> = self.attachments().map(|other| other.name.clone()).collect();
        let mut name = "probe".to_owned();
        while taken.contains(&name) {
            name.push('+');
        }
        let before = self.activity();
        self.attach(&name, probe, injection)?;
        let sites = self.held[self.index(&name)?].attachment.sites.clone();
        let mut calibration = Calibration::default();
        for batch in batches {
            let found = Gradients::backward(&loss(self, batch), &self.model);
            for site in &sites {
                let own = format!("{site}.adapters.{name}.");
                let statistics = calibration.entry(site);
                statistics.batches += 1;
                for path in found.paths() {
                    if let (Some(field), Some(gradient)) =
                        (path.strip_prefix(&own), found.get(path))
                    {
                        let gradient = Tensor::from_inner(gradient.clone());
                        let mut sum = statistics.own.remove(field);
                        add(&mut sum, gradient);
                        statistics
                            .own
                            .extend(sum.map(|sum| (field.to_owned(), sum)));
                    }
                }
            }
        }
        self.undo(&name, before);
        let unreached = sites.iter().find(|site| {
            calibration
                .get(site)
                .is_none_or(|found| found.own.is_empty())
        });
        match unreached {
            Some(site) => Err(Error::Unsupported(format!(
                "{site}: no calibration batch reached this site"
            ))),
            None => Ok(calibration),
        }
    }
}
