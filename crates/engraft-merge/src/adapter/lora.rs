//! LORA: dW = s B A (LoRA, arXiv 2106.09685, section 4.1), s = alpha / r, or alpha / sqrt(r)
//! (rsLoRA, 2312.03732); and DoRA (2402.09353, equation 5), W' = m (W + s B A) / |W + s B A|, norms
//! over each output's weights.

use engraft_linalg::Matrix;

use super::{Config, Form, Layout, Parts, Shapes};
use crate::base::times_transposed;
use crate::error::Result;
use crate::file::HostTensor;
use crate::update::{Factors, Update};

pub(super) struct Lora;

/// The factors of a module as they are stored: dW = scaling B A.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraFactors {
    /// A: `[rank, in]`, or `[rank, in, ...]` of a convolution.
    pub a: HostTensor,
    /// B: `[out, rank]`, or `[out, rank, 1, ...]`.
    pub b: HostTensor,
    /// alpha / rank, or alpha / sqrt(rank).
    pub scaling: f64,
}

impl LoraFactors {
    /// Names of A and B under a module.
    #[must_use]
    pub fn fields(layout: &Layout) -> [&'static str; 2] {
        match layout {
            Layout::Embedding => [EMBEDDING_A, EMBEDDING_B],
            _ => [A, B],
        }
    }

    pub(super) fn read(parts: &Parts<'_>) -> Result<Self> {
        let [a, b] = Self::fields(parts.layout()).map(|field| parts.tensor(field));
        let (a, b) = (a?, b?);
        let scaling = parts.scaling("lora_alpha", a.shape.first().copied().unwrap_or(1) as f64)?;
        Ok(Self { a, b, scaling })
    }
}

const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";
const BIAS: &str = "lora_B.bias";
const EMBEDDING_A: &str = "lora_embedding_A";
const EMBEDDING_B: &str = "lora_embedding_B";
const MAGNITUDE: &str = "lora_magnitude_vector";

/// Options under which the tensors mean something else than s B A, and what.
const OTHER: [(&str, &str); 8] = [
    (
        "alora_invocation_tokens",
        "it acts after its invocation tokens only",
    ),
    ("arrow_config", "it routes between adapters"),
    ("kasa_config", "KaSA changes the base"),
    ("layer_replication", "it repeats layers of its base"),
    ("loftq_config", "LoftQ changes the base"),
    ("target_parameters", "it adapts stacked parameters"),
    ("use_bdlora", "its factors are block-diagonal"),
    ("use_qalora", "its inputs are pooled"),
];

/// Inits that leave a residual of the base, on which the tensors act.
const RESIDUAL: [&str; 6] = ["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];

impl Form for Lora {
    fn name(&self) -> &'static str {
        "LORA"
    }

    fn fields(&self) -> &'static [&'static str] {
        &[A, B, BIAS, EMBEDDING_A, EMBEDDING_B, MAGNITUDE]
    }

    fn refuses(&self, config: &Config) -> Option<String> {
        let other = OTHER.iter().find(|(key, _)| config.is_set(key));
        if let Some((key, reason)) = other {
            return Some(format!("`{key}`: {reason}"));
        }
        let init = config.text("init_lora_weights").unwrap_or_default();
        let residual = RESIDUAL.iter().any(|known| init.starts_with(known));
        residual
            .then(|| format!("`init_lora_weights` = {init}: it belongs to a residual of the base"))
    }

    fn layout(&self, config: &Config, _: &str, shapes: &Shapes<'_>) -> Layout {
        let a = shapes(A);
        match config.is_set("fan_in_fan_out") {
            _ if !shapes(EMBEDDING_A).is_empty() => Layout::Embedding,
            _ if a.len() > 2 => Layout::Convolution {
                kernel: a[2..].to_vec(),
            },
            true => Layout::Transposed,
            false => Layout::Linear,
        }
    }

    fn update(&self, parts: &Parts<'_>) -> Result<Update> {
        let LoraFactors { a, b, scaling } = LoraFactors::read(parts)?;
        let factors = Factors::new(b.matrix()?.scale(scaling), a.matrix()?)?;
        let mut update = Update::low_rank(factors);
        if parts.has(MAGNITUDE) {
            update = decomposed(parts, update)?;
        }
        if parts.has(BIAS) {
            let bias = parts.vector(BIAS)?;
            update.bias = Some(bias.into_iter().map(|x| scaling * x).collect());
        }
        Ok(update)
    }
}

/// DoRA around a low-rank update: with d_i = m_i / |W_i + (L R)_i|,
/// W' - W = diag(d - 1) W + diag(d) L R. The norms come from those of W and products with the
/// factors; no matrix of W's size is formed.
fn decomposed(parts: &Parts<'_>, update: Update) -> Result<Update> {
    let factors = update.low_rank.expect("made of factors");
    let magnitude = parts.vector(MAGNITUDE)?;
    let weight = parts.weight()?;
    let shape = [factors.left.rows(), factors.right.cols()];
    if weight.shape != shape || magnitude.len() != shape[0] {
        return Err(parts.error(format!(
            "the adapter fits a weight of {shape:?} with {} magnitudes, the base's is {:?}",
            magnitude.len(),
            weight.shape
        )));
    }
    let norms = row_norms(
        &factors,
        &weight.data,
        times_transposed(&factors.right, &weight)?,
    )?;
    let ratios: Vec<f64> = magnitude.iter().zip(&norms).map(|(m, n)| m / n).collect();
    if let Some(row) = ratios.iter().position(|d| !d.is_finite()) {
        let reason = format!(
            "output {row} has magnitude {} and norm {}",
            magnitude[row], norms[row]
        );
        return Err(parts.error(reason));
    }
    let left = factors.left.scale_rows(&ratios)?;
    Ok(Update {
        low_rank: Some(Factors::new(left, factors.right)?),
        rows: Some(ratios.into_iter().map(|d| d - 1.0).collect()),
        ..update
    })
}

/// |W_i + L_i R|, from |W_i|^2 + 2 L_i . (R W^T)_i + L_i (R R^T) L_i^T.
fn row_norms(factors: &Factors, weight: &[f32], rwt: Matrix) -> Result<Vec<f64>> {
    let gram = factors.right.matmul(&factors.right.transpose())?;
    let lg = factors.left.matmul(&gram)?;
    let wr = rwt.transpose();
    let columns = factors.right.cols();
    Ok((0..factors.left.rows())
        .map(|i| {
            let w = &weight[i * columns..(i + 1) * columns];
            let own: f64 = w.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let l = factors.left.row(i);
            let cross = l.iter().zip(wr.row(i)).map(|(a, b)| 2.0 * a * b);
            let square = l.iter().zip(lg.row(i)).map(|(a, b)| a * b);
            (own + cross.sum::<f64>() + square.sum::<f64>())
                .max(0.0)
                .sqrt()
        })
        .collect())
}
