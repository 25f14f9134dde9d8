//! The plots of a merge, as SVG in the colour of the text around them.

use engraft_merge::diagnose::Diagnosis;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Result;
use crate::plot::{COLOURS, FONT, INK, failed, registered};

/// Side of a square of a map, and room for its names.
const SQUARE: i32 = 44;
const MARGIN: i32 = 120;

/// A square for each two adapters, darker for larger numbers from `least` to 1.
pub(super) fn heat_map(names: &[String], values: &[Vec<f64>], least: f64) -> Result<String> {
    let side = (MARGIN + SQUARE * names.len() as i32 + 8) as u32;
    inline((side, side), |area| {
        let text = (FONT, 13).into_font().color(&INK);
        for (i, row) in values.iter().enumerate() {
            let at = |j: usize| (MARGIN + SQUARE * j as i32, MARGIN + SQUARE * i as i32);
            for (j, value) in row.iter().enumerate() {
                let share = ((value - least) / (1.0 - least)).clamp(0.0, 1.0);
                let (x, y) = at(j);
                let corners = [(x, y), (x + SQUARE - 2, y + SQUARE - 2)];
                let fill = COLOURS[0].mix(0.08 + 0.72 * share).filled();
                area.draw(&Rectangle::new(corners, fill)).map_err(failed)?;
                let middle = (x + SQUARE / 2, y + SQUARE / 2);
                let label = text.clone().pos(Pos::new(HPos::Center, VPos::Center));
                area.draw(&Text::new(format!("{value:.2}"), middle, label))
                    .map_err(failed)?;
            }
            let label = text.clone().pos(Pos::new(HPos::Right, VPos::Center));
            let (_, y) = at(0);
            area.draw(&Text::new(
                short(&names[i]),
                (MARGIN - 8, y + SQUARE / 2),
                label,
            ))
            .map_err(failed)?;
            let up = text
                .clone()
                .transform(FontTransform::Rotate270)
                .pos(Pos::new(HPos::Left, VPos::Center));
            let (x, _) = (MARGIN + SQUARE * i as i32, 0);
            area.draw(&Text::new(
                short(&names[i]),
                (x + SQUARE / 2, MARGIN - 8),
                up,
            ))
            .map_err(failed)?;
        }
        Ok(())
    })
}

/// The singular values of every adapter, the root of their mean square over the modules, largest first.
pub(super) fn spectra(diagnosis: &Diagnosis) -> Result<String> {
    let mut lines: Vec<Vec<f64>> = vec![Vec::new(); diagnosis.adapters.len()];
    for spectra in diagnosis.spectra.modules.values() {
        for (line, spectrum) in lines.iter_mut().zip(spectra) {
            line.resize(line.len().max(spectrum.values.len()), 0.0);
            let pairs = line.iter_mut().zip(&spectrum.values);
            pairs.for_each(|(sum, value)| *sum += value * value);
        }
    }
    let count = diagnosis.spectra.modules.len().max(1) as f64;
    lines
        .iter_mut()
        .flatten()
        .for_each(|sum| *sum = (*sum / count).sqrt());
    let longest = lines.iter().map(Vec::len).max().unwrap_or(0);
    let largest = lines.iter().flatten().copied().fold(0.0, f64::max);
    if longest == 0 || largest == 0.0 {
        return Ok(String::new());
    }
    inline((720, 360), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(1f64..longest.max(2) as f64, 0f64..1.05 * largest)
            .map_err(failed)?;
        let label = (FONT, 13).into_font().color(&INK);
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK)
            .label_style(label.clone())
            .x_desc("index")
            .y_desc("singular value")
            .draw()
            .map_err(failed)?;
        for (at, line) in lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let points = line
                .iter()
                .enumerate()
                .map(|(i, value)| ((i + 1) as f64, *value));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))
                .map_err(failed)?
                .label(short(&diagnosis.adapters[at]))
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                });
        }
        let labels = chart
            .configure_series_labels()
            .label_font(label)
            .border_style(TRANSPARENT)
            .draw();
        labels.map_err(failed)
    })
}

/// At most sixteen letters.
fn short(name: &str) -> String {
    match name.chars().count() > 16 {
        true => name.chars().take(15).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

fn inline(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<()>,
) -> Result<String> {
    registered();
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text.replace("#222222", "currentColor"))
}
