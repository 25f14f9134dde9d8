//! Where a method goes in a model, and what it costs there, from shapes alone.

use engraft_tensor::suggestion;

use crate::adapted::Injection;
use crate::counts::Counts;
use crate::error::{Error, Result};
use crate::method::AnyMethod;
use crate::selection;
use crate::shape::{LayerShape, ModelShapes, ParamShape, Part, SiteShape};
use crate::targets::Targets;

/// A method resolved against a model's shapes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Adapted layers, each with the method as configured for it.
    pub layers: Vec<(LayerShape, AnyMethod)>,
    /// Adapted sites.
    pub sites: Vec<SiteShape>,
    /// Trained parameters of the model itself, the head included when it is trained.
    pub params: Vec<String>,
    counts: Counts,
}

impl Plan {
    /// Resolves `targets` and checks that the method fits every layer and site it is to go to.
    ///
    /// # Errors
    /// Targets that match nothing, or a layer that the method does not admit.
    pub fn new(method: &AnyMethod, shapes: &ModelShapes, injection: &Injection) -> Result<Self> {
        let targets = &method.targets_in(shapes, &injection.targets);
        let parts = method.parts();
        let layers = if parts.graft.is_some() || parts.model.is_some() {
            target_layers(method, shapes, targets)?
        } else {
            Vec::new()
        };
        let sites = if parts.site.is_some() {
            target_sites(method, shapes, targets, !layers.is_empty())?
        } else {
            Vec::new()
        };
        let selected = match &parts.selection {
            // Beside adapters, targets are those of the adapters.
            Some(chosen)
                if parts.graft.is_some() || parts.model.is_some() || parts.site.is_some() =>
            {
                selection::selected(
                    method.meta().id,
                    chosen.as_ref(),
                    shapes,
                    &Targets::default(),
                )?
            }
            Some(chosen) => {
                selection::selected(method.meta().id, chosen.as_ref(), shapes, targets)?
            }
            None => Vec::new(),
        };
        let along: Vec<_> = trained_along(shapes, injection)?
            .into_iter()
            .filter(|param| !selected.iter().any(|chosen| chosen.path == param.path))
            .collect();
        if layers.is_empty() && sites.is_empty() && selected.is_empty() && parts.selection.is_none()
        {
            return Err(Error::Unsupported(format!(
                "`{}` has nothing to attach to in this model",
                method.meta().id
            )));
        }
        let trained = || selected.iter().chain(&along).copied();
        let counts = count_adapters(method, &layers, &sites) + selection::count(trained());
        let params = trained().map(|param| param.path.clone()).collect();
        Ok(Self {
            layers,
            sites,
            params,
            counts,
        })
    }

    /// What is trained and stored.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// The head and the named parameters that are trained whatever the method.
fn trained_along<'a>(
    shapes: &'a ModelShapes,
    injection: &Injection,
) -> Result<Vec<&'a ParamShape>> {
    for path in &injection.train_also {
        if !shapes.params.iter().any(|param| param.path == *path) {
            let suggestion =
                suggestion(path, shapes.params.iter().map(|param| param.path.as_str()));
            return Err(Error::NoTarget {
                pattern: path.clone(),
                what: "parameter",
                suggestion,
            });
        }
    }
    let along = |param: &&ParamShape| {
        (injection.train_head && param.part == Part::Head)
            || injection.train_also.contains(&param.path)
    };
    Ok(shapes.params.iter().filter(along).collect())
}

fn target_layers(
    method: &AnyMethod,
    shapes: &ModelShapes,
    targets: &Targets,
) -> Result<Vec<(LayerShape, AnyMethod)>> {
    let paths: Vec<&str> = shapes
        .layers
        .iter()
        .map(|layer| layer.path.as_str())
        .collect();
    let chosen = targets.select(&paths, "layer", |path| shapes.is_default_target(path))?;
    let mut layers = Vec::with_capacity(chosen.len());
    for layer in shapes
        .layers
        .iter()
        .filter(|layer| chosen.contains(&layer.path.as_str()))
    {
        let method = method.with(targets.overrides(&layer.path)?)?;
        if let Some(graft) = &method.parts().graft {
            graft
                .admits(layer)
                .map_err(|reason| method.inadmissible(layer, reason))?;
        }
        layers.push((layer.clone(), method));
    }
    if let Some(model) = &method.parts().model {
        let all: Vec<LayerShape> = layers.iter().map(|(layer, _)| layer.clone()).collect();
        model
            .admits(&all)
            .map_err(|reason| method.inadmissible(&all[0], reason))?;
    }
    Ok(layers)
}

fn target_sites(
    method: &AnyMethod,
    shapes: &ModelShapes,
    targets: &Targets,
    has_layers: bool,
) -> Result<Vec<SiteShape>> {
    let part = method
        .parts()
        .site
        .as_ref()
        .expect("asked for a method with sites");
    let of_kind: Vec<&SiteShape> = shapes
        .sites
        .iter()
        .filter(|site| part.takes(site) || part.admits(site).is_ok())
        .collect();
    let paths: Vec<&str> = of_kind.iter().map(|site| site.path.as_str()).collect();
    let chosen = match targets.select(&paths, "site", |path| {
        of_kind
            .iter()
            .any(|site| site.path == path && part.takes(site))
    }) {
        Ok(chosen) => chosen,
        // A composition whose explicit targets are layers acts at no site.
        Err(Error::NoTarget { .. }) if has_layers => Vec::new(),
        Err(error) => return Err(error),
    };
    of_kind
        .into_iter()
        .filter(|site| chosen.contains(&site.path.as_str()))
        .map(|site| {
            part.admits(site).map_err(|reason| Error::Inadmissible {
                method: method.meta().id.to_owned(),
                path: site.path.clone(),
                d_in: site.width,
                d_out: site.width,
                reason,
            })?;
            Ok(site.clone())
        })
        .collect()
}

fn count_adapters(
    method: &AnyMethod,
    layers: &[(LayerShape, AnyMethod)],
    sites: &[SiteShape],
) -> Counts {
    let shapes: Vec<LayerShape> = layers.iter().map(|(layer, _)| layer.clone()).collect();
    let parts = method.parts();
    let own: Counts = layers
        .iter()
        .filter_map(|(layer, method)| {
            method
                .parts()
                .graft
                .as_ref()
                .map(|graft| graft.count(layer))
        })
        .sum();
    let shared: Counts = parts
        .graft
        .iter()
        .flat_map(|graft| graft.banks(&shapes))
        .map(|bank| bank.count())
        .sum();
    let coupled: Counts = parts.model.iter().map(|model| model.count(&shapes)).sum();
    let model_banks: Counts = parts
        .model
        .iter()
        .flat_map(|model| model.banks(&shapes))
        .map(|bank| bank.count())
        .sum();
    let at_sites: Counts = parts
        .site
        .iter()
        .flat_map(|part| sites.iter().map(|site| part.count(site)))
        .sum();
    let site_banks: Counts = parts
        .site
        .iter()
        .flat_map(|part| part.banks(sites))
        .map(|bank| bank.count())
        .sum();
    own + shared + coupled + model_banks + at_sites + site_banks
}
