//! The common part of all pictures. An SVG is text, and is written as such.

/// An SVG document around `body`, with its size in pixels. `style` has the attributes of its texts.
pub(crate) fn document(size: (f64, f64), style: &str, background: &str, body: &str) -> String {
    let (width, height) = size;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" {style}>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{background}\"/>\n{body}</svg>\n"
    )
}

/// A text escaped for an element or an attribute.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
