//! What all pictures have in common: an SVG is text, and made as such.

/// The picture of a body, in pixels. `style` is what the texts look like, as attributes.
pub(crate) fn document(size: (f64, f64), style: &str, background: &str, body: &str) -> String {
    let (width, height) = size;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" {style}>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{background}\"/>\n{body}</svg>\n"
    )
}

/// A text as it stands in an element or an attribute.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
