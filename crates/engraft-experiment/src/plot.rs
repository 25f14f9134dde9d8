//! Accuracy against trainable parameters, with intervals, as SVG and PNG.
//!
//! Text needs no font of the system: PNG and all measures of text use a font that is part of the
//! program (Ubuntu Light, Ubuntu font licence 1.0).

use std::{collections::BTreeSet, path::Path};

use plotters::{
    coord::Shift,
    prelude::*,
    style::{
        FontStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{
    error::{Error, Result},
    label::{self, Pixel, Placed, Rectangle},
    results::Results,
    store::temporary,
};

/// The name under which the font is registered; a browser shows an SVG in its own sans-serif.
pub(crate) const FONT: &str = "sans-serif";
/// Size of the figure in points.
const SIZE: (u32, u32) = (960, 600);
/// Width of the legend in points.
const LEGEND: i32 = 150;
/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(34, 34, 34);
/// Colours of families that people who confuse red and green tell apart (after Paul Tol's muted scheme,
/// with two of his vibrant one, and dark ones lightened for dark pages).
pub(crate) const COLOURS: [RGBColor; 12] = [
    RGBColor(92, 84, 200),
    RGBColor(204, 102, 119),
    RGBColor(17, 119, 51),
    RGBColor(221, 170, 51),
    RGBColor(136, 204, 238),
    RGBColor(170, 68, 153),
    RGBColor(68, 170, 153),
    RGBColor(160, 50, 100),
    RGBColor(153, 153, 51),
    RGBColor(119, 119, 119),
    RGBColor(238, 119, 51),
    RGBColor(0, 119, 187),
];

/// A method in the figure.
struct Mark {
    label: String,
    family: String,
    parameters: f64,
    accuracy: f64,
    half_width: f64,
}

/// What the figure shows.
pub struct Figure {
    marks: Vec<Mark>,
    /// Rows that train nothing have no place on a logarithmic axis: they are horizontal lines.
    lines: Vec<(String, f64)>,
    families: Vec<String>,
    bounds: [f64; 4],
}

impl Figure {
    /// Takes the rows that have an accuracy.
    #[must_use]
    pub fn new(results: &Results) -> Self {
        let (mut marks, mut lines) = (Vec::new(), Vec::new());
        for row in &results.rows {
            let (Some(accuracy), Some(counts)) = (row.accuracy, row.counts) else {
                continue;
            };
            if counts.without_head() == 0 {
                lines.push((row.label.clone(), 100.0 * accuracy.mean));
            } else {
                marks.push(Mark {
                    label: row.label.clone(),
                    family: row.family.clone(),
                    parameters: counts.without_head() as f64,
                    accuracy: 100.0 * accuracy.mean,
                    half_width: 100.0 * accuracy.half_width.unwrap_or(0.0),
                });
            }
        }
        let families: BTreeSet<_> = marks.iter().map(|mark| mark.family.clone()).collect();
        let bounds = bounds(&marks, &lines);
        Self {
            marks,
            lines,
            families: families.into_iter().collect(),
            bounds,
        }
    }

    fn colour(&self, family: &str) -> RGBColor {
        let place = self
            .families
            .iter()
            .position(|name| name == family)
            .unwrap_or(0);
        COLOURS[place % COLOURS.len()]
    }

    /// The figure as SVG on white.
    ///
    /// # Errors
    /// When the drawing library fails.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            area.fill(&WHITE).map_err(failed)?;
            self.draw(&area, 1)?;
        }
        Ok(text)
    }

    /// The figure as SVG without background and in the colour of the text around it.
    ///
    /// # Errors
    /// As [`Self::svg`].
    pub fn inline_svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(
            &SVGBackend::with_string(&mut text, SIZE).into_drawing_area(),
            1,
        )?;
        Ok(text.replace("#222222", "currentColor"))
    }

    /// Writes the figure as PNG, twice as large for sharp print.
    ///
    /// # Errors
    /// When the file cannot be written; then nothing is left behind.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        const SCALE: u32 = 2;
        let directory = path.parent().unwrap_or(Path::new("."));
        let written = |error| Error::io("write", path, &error);
        let file = temporary(directory, ".png").map_err(written)?;
        {
            let area = BitMapBackend::new(file.path(), (SIZE.0 * SCALE, SIZE.1 * SCALE))
                .into_drawing_area();
            area.fill(&WHITE).map_err(failed)?;
            self.draw(&area, SCALE)?;
        }
        file.as_file().sync_all().map_err(written)?;
        file.persist(path).map_err(|error| written(error.error))?;
        Ok(())
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: u32) -> Result<()> {
        registered();
        let unit = scale as i32;
        let [left, right, bottom, top] = self.bounds;
        let (plot, legend) = area.split_horizontally((SIZE.0 as i32 - LEGEND) * unit);
        let mut chart = ChartBuilder::on(&plot)
            .margin(12 * unit)
            .x_label_area_size(44 * unit)
            .y_label_area_size(52 * unit)
            .build_cartesian_2d((left..right).log_scale(), bottom..top)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK)
            .label_style(font(14, unit))
            .axis_desc_style(font(15, unit))
            .x_desc("trainable parameters")
            .y_desc("test accuracy, %")
            .x_label_formatter(&|value| thousands(*value))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()
            .map_err(failed)?;
        let mut below = 0;
        for (label, accuracy) in &self.lines {
            let shown = *accuracy >= bottom;
            let (x, y) = chart.backend_coord(&(right, accuracy.max(bottom)));
            let note = if shown {
                let dashes = [(left, *accuracy), (right, *accuracy)];
                let style = INK.mix(0.6).stroke_width(scale);
                chart
                    .draw_series(DashedLineSeries::new(dashes, 5 * unit, 4 * unit, style))
                    .map_err(failed)?;
                label.clone()
            } else {
                below += 1;
                format!("{label}: {accuracy:.1}, below the axis")
            };
            let style = font(13, unit).pos(Pos::new(HPos::Right, VPos::Bottom));
            let lift = if shown { 2 } else { 16 * below - 12 };
            let place = (x - 4 * unit, y - lift * unit);
            area.draw(&Text::new(note, place, style)).map_err(failed)?;
        }
        let (mut points, mut obstacles) = (Vec::new(), Vec::new());
        for mark in &self.marks {
            let colour = self.colour(&mark.family);
            let place = |accuracy: f64| (mark.parameters, accuracy.clamp(bottom, top));
            let ends = [-1.0, 1.0].map(|side| place(mark.accuracy + side * mark.half_width));
            let line = PathElement::new(ends, colour.mix(0.45).stroke_width(scale));
            let dot = Circle::new(place(mark.accuracy), 4 * unit, colour.filled());
            chart.draw_series([line]).map_err(failed)?;
            chart.draw_series([dot]).map_err(failed)?;
            let point = chart.backend_coord(&place(mark.accuracy));
            let [low, high] = ends.map(|end| chart.backend_coord(&end));
            let middle = (point.0, (low.1 + high.1) / 2);
            obstacles.push(Rectangle::around(point, 10 * unit, 10 * unit));
            obstacles.push(Rectangle::around(middle, 2 * unit, low.1 - high.1));
            points.push(point);
        }
        let (columns, rows) = chart.plotting_area().get_pixel_range();
        let frame = Rectangle {
            left: columns.start,
            top: rows.start,
            right: columns.end,
            bottom: rows.end,
        };
        self.draw_labels(area, &points, &obstacles, frame, unit)?;
        self.draw_legend(&legend, unit)?;
        area.present().map_err(failed)
    }

    fn draw_labels<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        points: &[Pixel],
        obstacles: &[Rectangle],
        frame: Rectangle,
        unit: i32,
    ) -> Result<()> {
        let style = font(13, unit);
        let mut sizes = Vec::new();
        for mark in &self.marks {
            let (width, height) = area
                .estimate_text_size(&mark.label, &style)
                .map_err(failed)?;
            sizes.push((width as i32, height as i32));
        }
        let placed = label::place(points, &sizes, obstacles, frame, unit);
        for (
            (mark, point),
            Placed {
                rectangle,
                needs_line,
            },
        ) in self.marks.iter().zip(points).zip(placed)
        {
            if needs_line {
                let line = [*point, rectangle.nearest(*point)];
                area.draw(&PathElement::new(
                    line,
                    INK.mix(0.4).stroke_width(unit as u32),
                ))
                .map_err(failed)?;
            }
            let corner = (rectangle.left, rectangle.top);
            area.draw(&Text::new(mark.label.clone(), corner, style.clone()))
                .map_err(failed)?;
        }
        Ok(())
    }

    fn draw_legend<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        unit: i32,
    ) -> Result<()> {
        for (row, family) in self.families.iter().enumerate() {
            let y = (30 + 22 * row as i32) * unit;
            let dot = Circle::new((8 * unit, y), 5 * unit, self.colour(family).filled());
            area.draw(&dot).map_err(failed)?;
            let text = Text::new(family.clone(), (20 * unit, y - 7 * unit), font(14, unit));
            area.draw(&text).map_err(failed)?;
        }
        Ok(())
    }
}

/// Text of a size in points.
fn font(size: i32, unit: i32) -> TextStyle<'static> {
    (FONT, size * unit).into_font().color(&INK)
}

/// The axes' ends: a factor beside the smallest and largest number of parameters, a margin around
/// all intervals. A line far below all marks does not count, or it would press them together.
fn bounds(marks: &[Mark], lines: &[(String, f64)]) -> [f64; 4] {
    let range = |values: &[f64]| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (low <= high).then_some((low, high))
    };
    let parameters: Vec<f64> = marks.iter().map(|mark| mark.parameters).collect();
    let (left, right) = range(&parameters).unwrap_or((1.0, 10.0));
    let ends = |mark: &Mark| {
        [
            mark.accuracy - mark.half_width,
            mark.accuracy + mark.half_width,
        ]
    };
    let mut heights: Vec<f64> = marks.iter().flat_map(ends).collect();
    let (low, high) = range(&heights).unwrap_or((0.0, 100.0));
    let near = low - (high - low).max(5.0);
    heights.extend(
        lines
            .iter()
            .map(|(_, accuracy)| *accuracy)
            .filter(|accuracy| *accuracy >= near),
    );
    let (bottom, top) = range(&heights).unwrap_or((0.0, 100.0));
    let margin = 0.06 * (top - bottom).max(1.0);
    [left / 1.6, right * 2.2, bottom - margin, top + margin]
}

/// "500", "20k", "3M".
fn thousands(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

/// Makes the font known.
pub(crate) fn registered() {
    // Registering the same font again changes nothing.
    let _ = register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
}

pub(crate) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Io {
        action: "write",
        path: "the plot".into(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_figure_is_drawn() {
        let figure = Figure::new(&Results {
            rows: Vec::new(),
            incomplete: Vec::new(),
        });
        assert!(figure.svg().unwrap().contains("trainable parameters"));
    }
}
