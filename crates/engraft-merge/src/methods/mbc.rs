//! MBC's embedding and clusters of adapters (Ostapenko et al. 2024, arXiv:2405.11157, section 3.1;
//! `SVDEmbeddingTransform` and `MBCWithCosSimTransform` of the authors' library mttl).
//!
//! ```text
//! x_i     the weights of adapter i as one vector, the `sparsity` smallest magnitudes set to zero
//! X = U S V^T,     e_i = (U_k S_k)_i / |(U_k S_k)_i|,     then k-means of the e_i
//! ```
//!
//! The authors then train one adapter for each cluster on its tasks together; [`merge_clusters`]
//! averages those there are. U S comes from the n x n matrix X X^T: n is the number of adapters.

use engraft_linalg::{Matrix, svd};
use rand::SeedableRng;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::average::average;
use crate::error::{Error, Result};
use crate::update::Update;

/// Starts of k-means of which the best is kept.
const STARTS: usize = 10;

/// Steps of k-means at most.
const STEPS: usize = 300;

/// Options of the embedding, as in the authors' code by default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Embedding {
    /// Numbers of an embedding at most; there are no more than adapters.
    pub components: usize,
    /// Fraction of each adapter's weights that is set to zero.
    pub sparsity: f64,
}

impl Default for Embedding {
    fn default() -> Self {
        Self {
            components: 64,
            sparsity: 0.8,
        }
    }
}

/// Adapters in groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clusters {
    /// The cluster of each adapter, counted in the order of their first adapters.
    pub assignment: Vec<usize>,
    /// Sum of the squared distances from the centres.
    pub inertia: f64,
}

impl Embedding {
    /// The embeddings `[n, k]` of n adapters, each as all its weights in one order.
    ///
    /// # Errors
    /// No adapters, adapters of different sizes, options outside their ranges, NaN or infinite
    /// numbers.
    pub fn of(&self, adapters: &[Vec<f32>]) -> Result<Matrix> {
        if self.components == 0 || !(0.0..1.0).contains(&self.sparsity) {
            return Err(Error::input(format!(
                "{self:?}: choose at least one component and a sparsity from 0 to below 1"
            )));
        }
        let size = adapters.first().map_or(0, Vec::len);
        if size == 0 {
            return Err(Error::input(
                "an embedding of no adapters, or of no weights",
            ));
        }
        if let Some((at, other)) = adapters.iter().enumerate().find(|(_, x)| x.len() != size) {
            return Err(Error::input(format!(
                "adapter {at} has {} weights and adapter 0 has {size}: all must have the same modules and ranks",
                other.len()
            )));
        }
        if let Some(at) = adapters
            .iter()
            .position(|x| x.iter().any(|x| !x.is_finite()))
        {
            return Err(Error::input(format!(
                "adapter {at} has weights that are NaN or infinite"
            )));
        }
        let thresholds: Vec<f32> = adapters
            .iter()
            .map(|x| quantile(x, self.sparsity))
            .collect();
        let n = adapters.len();
        let kept = |i: usize, at: usize| {
            let x = adapters[i][at];
            match x.abs() > thresholds[i] || self.sparsity == 0.0 {
                true => f64::from(x),
                false => 0.0,
            }
        };
        let mut gram = Matrix::zeros(n, n);
        for i in 0..n {
            for j in 0..=i {
                let dot = (0..size).map(|at| kept(i, at) * kept(j, at)).sum();
                gram.set(i, j, dot);
                gram.set(j, i, dot);
            }
        }
        let all = svd(&gram)?;
        let components = self.components.min(n);
        let mut embeddings = all.truncated(components)?.u;
        for i in 0..n {
            let row = embeddings.row_mut(i);
            row.iter_mut().zip(&all.s).for_each(|(x, s)| *x *= s.sqrt());
            let norm = row.iter().fold(0.0, |norm: f64, x| norm.hypot(*x));
            if norm > 0.0 {
                row.iter_mut().for_each(|x| *x /= norm);
            }
        }
        Ok(embeddings)
    }
}

/// The magnitude below which a fraction lies, between two magnitudes in proportion.
fn quantile(values: &[f32], fraction: f64) -> f32 {
    let mut sizes: Vec<f32> = values.iter().map(|x| x.abs()).collect();
    let place = fraction * (sizes.len() - 1) as f64;
    let low = place as usize;
    let (_, below, above) = sizes.select_nth_unstable_by(low, f32::total_cmp);
    let below = *below;
    let above = above.iter().copied().fold(f32::INFINITY, f32::min);
    match above.is_finite() {
        true => below + (above - below) * (place - low as f64) as f32,
        false => below,
    }
}

/// Lloyd's k-means from k-means++ starts (Arthur and Vassilvitskii 2007), the best of ten.
///
/// # Errors
/// A number of clusters that is zero or above that of the points, NaN or infinite numbers.
pub fn k_means(points: &Matrix, clusters: usize, seed: u64) -> Result<Clusters> {
    if clusters == 0 || clusters > points.rows() {
        return Err(Error::input(format!(
            "{clusters} clusters of {} adapters: choose from 1 to as many as there are",
            points.rows()
        )));
    }
    points.check_finite("k-means")?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut best: Option<Clusters> = None;
    for _ in 0..STARTS {
        let found = lloyd(points, start(points, clusters, &mut rng));
        if best
            .as_ref()
            .is_none_or(|best| found.inertia < best.inertia)
        {
            best = Some(found);
        }
    }
    let mut best = best.expect("at least one start");
    let mut names = Vec::new();
    for cluster in &mut best.assignment {
        let place = names.iter().position(|name| name == cluster);
        *cluster = place.unwrap_or_else(|| {
            names.push(*cluster);
            names.len() - 1
        });
    }
    Ok(best)
}

/// Centres drawn one by one with probabilities in proportion to the squared distance from the others.
fn start(points: &Matrix, clusters: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    let mut centres = vec![points.row(rng.random_range(0..points.rows())).to_vec()];
    while centres.len() < clusters {
        let distance = |row: usize| nearest(points.row(row), &centres).1;
        let distances: Vec<f64> = (0..points.rows()).map(distance).collect();
        let mut rest = rng.random::<f64>() * distances.iter().sum::<f64>();
        let chosen = distances.iter().position(|distance| {
            rest -= distance;
            rest < 0.0
        });
        centres.push(points.row(chosen.unwrap_or(centres.len())).to_vec());
    }
    centres
}

fn lloyd(points: &Matrix, mut centres: Vec<Vec<f64>>) -> Clusters {
    let mut assignment = Vec::new();
    let mut inertia = 0.0;
    for _ in 0..STEPS {
        let found: Vec<(usize, f64)> = (0..points.rows())
            .map(|row| nearest(points.row(row), &centres))
            .collect();
        inertia = found.iter().map(|(_, distance)| distance).sum();
        let next: Vec<usize> = found.iter().map(|(cluster, _)| *cluster).collect();
        if next == assignment {
            break;
        }
        assignment = next;
        for (cluster, centre) in centres.iter_mut().enumerate() {
            let own = (0..points.rows()).filter(|row| assignment[*row] == cluster);
            let own: Vec<usize> = own.collect();
            for (j, x) in centre.iter_mut().enumerate().filter(|_| !own.is_empty()) {
                let sum: f64 = own.iter().map(|row| points.get(*row, j)).sum();
                *x = sum / own.len() as f64;
            }
        }
    }
    Clusters {
        assignment,
        inertia,
    }
}

/// The nearest centre and its squared distance; the first of several.
fn nearest(point: &[f64], centres: &[Vec<f64>]) -> (usize, f64) {
    let distance = |centre: &Vec<f64>| {
        let both = point.iter().zip(centre);
        both.map(|(x, c)| (x - c).powi(2)).sum::<f64>()
    };
    let all = centres.iter().map(distance).enumerate();
    all.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
}

/// The average of one module over the adapters of each cluster.
///
/// # Errors
/// Another number of updates than of assignments, updates of different shapes.
pub fn merge_clusters(updates: &[&Update], clusters: &Clusters) -> Result<Vec<Update>> {
    if updates.len() != clusters.assignment.len() {
        return Err(Error::input(format!(
            "{} updates and {} assignments to clusters",
            updates.len(),
            clusters.assignment.len()
        )));
    }
    let count = clusters.assignment.iter().max().map_or(0, |last| last + 1);
    let merged = (0..count).map(|cluster| {
        let both = updates.iter().zip(&clusters.assignment);
        let own: Vec<&Update> = both
            .filter(|(_, of)| **of == cluster)
            .map(|(u, _)| *u)
            .collect();
        average(&own, None)
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense_of, distance, low_rank, matrix};

    proptest! {
        #[test]
        fn separated_clusters_are_found(groups in 1usize..5, each in 1usize..5, seed: u64) {
            // Adapters of a group are one vector with a little noise.
            let centres = matrix(groups, 200, seed);
            let noise = matrix(groups * each, 200, seed ^ 1).scale(0.05);
            let adapters: Vec<Vec<f32>> = (0..groups * each).map(|i| {
                let both = centres.row(i % groups).iter().zip(noise.row(i));
                both.map(|(c, e)| (c + e) as f32).collect()
            }).collect();
            let embeddings = Embedding::default().of(&adapters).unwrap();
            let found = k_means(&embeddings, groups, seed).unwrap();
            let expected: Vec<usize> = (0..groups * each).map(|i| i % groups).collect();
            prop_assert_eq!(&found.assignment, &expected);
            prop_assert_eq!(&k_means(&embeddings, groups, seed).unwrap(), &found);
        }

        #[test]
        fn embeddings_keep_the_angles(n in 1usize..6, seed: u64) {
            // Without pruning, and with all components, their products are the cosines.
            let x = matrix(n, 30, seed);
            let adapters: Vec<Vec<f32>> = (0..n).map(|i| x.row(i).iter().map(|x| *x as f32).collect()).collect();
            let e = Embedding { sparsity: 0.0, ..Embedding::default() }.of(&adapters).unwrap();
            let (products, dots) = (e.matmul(&e.transpose()).unwrap(), x.matmul(&x.transpose()).unwrap());
            for i in 0..n {
                for j in 0..n {
                    let cosine = dots.get(i, j) / (dots.get(i, i) * dots.get(j, j)).sqrt();
                    prop_assert!((products.get(i, j) - cosine).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn quantiles_as_numpy_has_them() {
        assert_eq!(quantile(&[-3.0, 1.0, 2.0, -4.0], 0.5), 2.5);
        assert_eq!(quantile(&[5.0], 0.8), 5.0);
        assert!((quantile(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.8) - 5.0).abs() < 1e-6);
    }

    #[test]
    fn clusters_are_averaged() {
        let updates: Vec<Update> = (0..3).map(|i| low_rank(4, 5, 2, i)).collect();
        let all: Vec<&Update> = updates.iter().collect();
        let clusters = Clusters {
            assignment: vec![0, 1, 0],
            inertia: 0.0,
        };
        let merged = merge_clusters(&all, &clusters).unwrap();
        let mean = dense_of(&updates[0])
            .add(&dense_of(&updates[2]))
            .unwrap()
            .scale(0.5);
        assert!(distance(&dense_of(&merged[0]), &mean) < 1e-12);
        assert!(distance(&dense_of(&merged[1]), &dense_of(&updates[1])) < 1e-12);
        assert!(merge_clusters(&all[..2], &clusters).is_err());
    }

    #[test]
    fn inadmissible() {
        let points = matrix(3, 2, 1);
        assert!(k_means(&points, 0, 1).is_err() && k_means(&points, 4, 1).is_err());
        assert_eq!(k_means(&Matrix::zeros(3, 2), 3, 1).unwrap().inertia, 0.0);
        let embedding = Embedding::default();
        assert!(embedding.of(&[]).is_err());
        assert!(embedding.of(&[vec![1.0], vec![1.0, 2.0]]).is_err());
        assert!(embedding.of(&[vec![f32::NAN]]).is_err());
        assert!(
            Embedding {
                sparsity: 1.0,
                ..embedding
            }
            .of(&[vec![1.0]])
            .is_err()
        );
        // All of one magnitude: pruning leaves nothing, and nothing divides by zero.
        assert_eq!(embedding.of(&[vec![1.0; 9]]).unwrap().max_abs(), 0.0);
    }
}
