//! The sub-matrix that captures most of a score.

use crate::top::top;

/// The `count` chosen rows and columns, ascending, of a matrix of scores [shape] whose sub-matrix
/// has the largest sum among three greedy choices: rows and columns by their own sums; rows first,
/// then columns by their sums over those rows; columns first, then rows. Of equal ones the first.
pub(crate) fn localise(scores: &[f64], shape: [usize; 2], count: [usize; 2]) -> [Vec<usize>; 2] {
    let [rows, columns] = shape;
    let all_rows: Vec<usize> = (0..rows).collect();
    let all_columns: Vec<usize> = (0..columns).collect();
    let row_sum = |row: usize, over: &[usize]| -> f64 {
        over.iter()
            .map(|column| scores[row * columns + column])
            .sum()
    };
    let best_rows = |over: &[usize]| {
        let sums: Vec<f64> = all_rows.iter().map(|&row| row_sum(row, over)).collect();
        top(&sums, count[0])
    };
    let best_columns = |over: &[usize]| {
        let mut sums = vec![0.0; columns];
        for &row in over {
            for (sum, score) in sums.iter_mut().zip(&scores[row * columns..]) {
                *sum += score;
            }
        }
        top(&sums, count[1])
    };
    let (by_row, by_column) = (best_rows(&all_columns), best_columns(&all_rows));
    let choices = [
        [by_row.clone(), by_column.clone()],
        [by_row.clone(), best_columns(&by_row)],
        [best_rows(&by_column), by_column],
    ];
    let captured = |[rows, columns]: &[Vec<usize>; 2]| -> f64 {
        rows.iter().map(|&row| row_sum(row, columns)).sum()
    };
    let mut best = 0;
    for k in 1..choices.len() {
        if captured(&choices[k]) > captured(&choices[best]) {
            best = k;
        }
    }
    choices[best].clone().map(|mut chosen| {
        chosen.sort_unstable();
        chosen
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_block_is_found() {
        let mut scores = vec![0.1; 48];
        for row in [1, 4] {
            for column in [0, 3, 7] {
                scores[row * 8 + column] = 2.0;
            }
        }
        assert_eq!(
            localise(&scores, [6, 8], [2, 3]),
            [vec![1, 4], vec![0, 3, 7]]
        );
    }

    #[test]
    fn the_best_of_the_three_choices_is_taken() {
        // Row 0 has the largest sum, but columns chosen over all rows are 0 and 1: taken alone the two
        // capture 4. Rows first finds columns 2 and 3 (8), columns first finds row 1 (10).
        let scores = [
            2.0, 2.0, 4.0, 4.0, //
            5.0, 5.0, 0.0, 0.0, //
            3.0, 3.0, 0.0, 0.0,
        ];
        assert_eq!(localise(&scores, [3, 4], [1, 2]), [vec![1], vec![0, 1]]);
        let mut without = scores;
        without[4] = 1.0;
        without[5] = 1.0;
        without[8] = 5.0;
        without[9] = 5.0;
        without[2] = 6.0;
        without[3] = 6.0;
        assert_eq!(localise(&without, [3, 4], [1, 2]), [vec![0], vec![2, 3]]);
    }
}
