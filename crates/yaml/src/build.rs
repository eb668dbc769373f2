//! Builds values and their places from the parser's events.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, StrInput, StructureStyle, Tag};
use serde_json::{Map, Value};

use super::scalar;
use super::{ALIAS_BUDGET, Child, Document, MAX_DEPTH, Node, Span, Style, SyntaxError, inner_mark};

/// Approximate memory of a copied value besides its text, in bytes.
const NODE_COST: usize = 64;

/// The documents in one part of the text.
pub(super) fn documents(
    text: &str,
    chunk: Range<usize>,
) -> impl Iterator<Item = Result<Document, SyntaxError>> + '_ {
    let mark = inner_mark(&text[chunk.clone()]);
    let base = chunk.start + mark.map_or(0, |mark| mark.end);
    let mut builder = Some(Builder {
        parser: Parser::new_from_str_with_options(&text[base..chunk.end], options()),
        base,
        anchors: HashMap::new(),
        copied: 0,
        position: base,
        ahead: None,
    });
    let mut start = chunk.start;
    std::iter::from_fn(move || {
        let document = builder.as_mut()?.document(start..chunk.end);
        match &document {
            // Several documents in one part are separated by `...` lines.
            Some(Ok(document)) => start = document.span.end(),
            Some(Err(_)) | None => builder = None,
        }
        document
    })
}

fn options() -> granit_parser::Options {
    let mut options = granit_parser::options! {
        // libyaml, of which Go's parser is a port, does this.
        block_scalar_eof_without_line_feed: true,
    };
    options.set_emit_comments(false);
    options
}

struct Builder<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// The start of the part in the text.
    base: usize,
    anchors: HashMap<usize, Built>,
    /// Size of the copies by anchors and aliases, in bytes.
    copied: usize,
    /// The start of the event that was read last.
    position: usize,
    /// An event that was read ahead.
    ahead: Option<Next<'t>>,
}

#[derive(Clone)]
struct Built {
    value: Value,
    node: Node,
    /// The levels of collections in it; 0 for a scalar.
    height: usize,
    cost: usize,
}

type Next<'t> = (Event<'t>, Span);

impl<'t> Builder<'t> {
    fn document(&mut self, part: Range<usize>) -> Option<Result<Document, SyntaxError>> {
        loop {
            return match self.next() {
                Err(error) => Some(Err(error)),
                Ok((Event::StreamEnd, _)) => None,
                Ok((Event::DocumentStart(..), _)) => {
                    self.anchors.clear();
                    self.copied = 0;
                    Some(self.root(&part))
                }
                Ok(_) => continue,
            };
        }
    }

    fn root(&mut self, part: &Range<usize>) -> Result<Document, SyntaxError> {
        let (event, span) = self.next()?;
        let built = self.value(event, span, 0)?;
        let (event, end) = self.next()?;
        let span = match event {
            // An explicit end, `...`, has a length.
            Event::DocumentEnd if end.end() > end.start() => Span::new(part.start, end.end()),
            _ => {
                // Text that follows without a separator is part of the document, and so are the
                // errors in it. The parser may see a separator where `kubectl` does not: before a
                // NUL.
                let next = self.next()?;
                let end = match &next {
                    (Event::DocumentStart(..), span) => span.start(),
                    _ => part.end,
                };
                self.ahead = Some(next);
                Span::new(part.start, end)
            }
        };
        Ok(Document {
            value: built.value,
            node: built.node,
            span,
        })
    }

    fn next(&mut self) -> Result<Next<'t>, SyntaxError> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(ahead);
        }
        match self.parser.next() {
            Some(Ok((event, span))) => {
                let offset = |marker: granit_parser::Marker| {
                    self.base + marker.byte_offset().unwrap_or_default()
                };
                let span = Span::new(offset(span.start), offset(span.end));
                self.position = span.start();
                Ok((event, span))
            }
            Some(Err(error)) => Err(self.scan_error(&error)),
            None => Ok((Event::StreamEnd, Span::new(self.position, self.position))),
        }
    }

    fn scan_error(&self, error: &ScanError) -> SyntaxError {
        SyntaxError {
            message: error.info(),
            offset: error
                .marker()
                .byte_offset()
                .map_or(self.position, |offset| self.base + offset),
        }
    }

    fn value(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Built, SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = plain_or_tagged(text, style, tag.as_deref())
                    .map_err(|message| error(message, span))?;
                let cost = NODE_COST + value.as_str().map_or(0, str::len);
                let built = Built {
                    value,
                    node: leaf(span, Style::Scalar),
                    height: 0,
                    cost,
                };
                self.anchored(anchor, built, span)
            }
            Event::Alias(id) => self.alias(id, span, depth),
            Event::SequenceStart(style, anchor, _) => {
                check_depth(depth, 1, span)?;
                let built = self.sequence(span, style, depth)?;
                self.anchored(anchor, built, span)
            }
            Event::MappingStart(style, anchor, _) => {
                check_depth(depth, 1, span)?;
                let built = self.mapping(span, style, depth)?;
                self.anchored(anchor, built, span)
            }
            _ => Err(error("a value is missing here", span)),
        }
    }

    fn alias(&mut self, id: usize, span: Span, depth: usize) -> Result<Built, SyntaxError> {
        let Some(target) = self.anchors.get(&id) else {
            return Err(error(
                "this alias stands for something that contains it",
                span,
            ));
        };
        check_depth(depth, target.height, span)?;
        self.copied += target.cost;
        if self.copied > ALIAS_BUDGET {
            return Err(error(
                format!("anchors and aliases expand to more than {ALIAS_BUDGET} bytes"),
                span,
            ));
        }
        let mut built = target.clone();
        built.node.span = span;
        built.node.style = Style::Alias;
        Ok(built)
    }

    fn anchored(&mut self, anchor: usize, built: Built, span: Span) -> Result<Built, SyntaxError> {
        if anchor != 0 {
            self.copied += built.cost;
            if self.copied > ALIAS_BUDGET {
                return Err(error(
                    format!("anchors and aliases expand to more than {ALIAS_BUDGET} bytes"),
                    span,
                ));
            }
            self.anchors.insert(anchor, built.clone());
        }
        Ok(built)
    }

    fn sequence(
        &mut self,
        start: Span,
        style: StructureStyle,
        depth: usize,
    ) -> Result<Built, SyntaxError> {
        let mut collection = Collection::new(start, style);
        let mut elements = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(collection.finish(Value::Array(elements), span));
            }
            let element = self.value(event, span, depth + 1)?;
            collection.measure(&element, 0);
            elements.push(element.value);
            collection.children.push(Child {
                key: None,
                node: element.node,
            });
        }
    }

    fn mapping(
        &mut self,
        start: Span,
        style: StructureStyle,
        depth: usize,
    ) -> Result<Built, SyntaxError> {
        let mut collection = Collection::new(start, style);
        let mut members = Members::default();
        loop {
            let (event, key_span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                collection.children = members.children;
                return Ok(collection.finish(Value::Object(members.map), key_span));
            }
            let merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.value(event, key_span, depth + 1)?;
            let (event, span) = self.next()?;
            let member = self.value(event, span, depth + 1)?;
            if merge {
                collection.measure(&member, 0);
                members.merge(member, span)?;
                continue;
            }
            let key = key_text(key.value).map_err(|message| error(message, key_span))?;
            collection.measure(&member, key.len());
            members.define(key, key_span, member)?;
        }
    }
}

/// A collection while it is read.
struct Collection {
    start: Span,
    style: Style,
    children: Vec<Child>,
    height: usize,
    cost: usize,
    end: usize,
}

impl Collection {
    fn new(start: Span, style: StructureStyle) -> Self {
        Self {
            start,
            style: match style {
                StructureStyle::Flow => Style::Flow,
                StructureStyle::Block => Style::Block,
            },
            children: Vec::new(),
            height: 1,
            cost: NODE_COST,
            end: start.end(),
        }
    }

    fn measure(&mut self, child: &Built, key: usize) {
        self.height = self.height.max(child.height + 1);
        self.cost += child.cost + key;
        self.end = child.node.span.end();
    }

    /// A block collection has no end of its own: it ends with its last element.
    fn finish(self, value: Value, end: Span) -> Built {
        let end = if self.style == Style::Flow {
            end.end()
        } else {
            self.end
        };
        Built {
            value,
            node: Node {
                span: Span::new(self.start.start(), end),
                style: self.style,
                children: self.children,
            },
            height: self.height,
            cost: self.cost,
        }
    }
}

/// A mapping's members while it is read, and where each of them is.
#[derive(Default)]
struct Members {
    map: Map<String, Value>,
    /// In the map's order.
    children: Vec<Child>,
    /// The index of each key, which `serde_json` does not expose. Only merged members can be
    /// replaced, so only a merge needs it.
    places: Option<HashMap<String, usize>>,
}

impl Members {
    fn define(&mut self, key: String, key_span: Span, member: Built) -> Result<(), SyntaxError> {
        let child = Child {
            key: Some(key_span),
            node: member.node,
        };
        if self.map.contains_key(&key) {
            // As in Go, a later member replaces one from a merge key.
            match self.places.as_ref().and_then(|places| places.get(&key)) {
                Some(&index) if self.children[index].key.is_none() => {
                    self.children[index] = child;
                }
                _ => {
                    return Err(error(
                        format!("the key `{key}` occurs twice in this mapping"),
                        key_span,
                    ));
                }
            }
        } else {
            if let Some(places) = &mut self.places {
                places.insert(key.clone(), self.children.len());
            }
            self.children.push(child);
        }
        self.map.insert(key, member.value);
        Ok(())
    }

    /// Adds the members of a merge key's value: a mapping, or a sequence of mappings, of which the
    /// first one takes precedence. As in Go, they also replace members before the merge key.
    fn merge(&mut self, merged: Built, span: Span) -> Result<(), SyntaxError> {
        let wrong = || error("a merge key takes a mapping or a list of mappings", span);
        let sources = match merged.value {
            Value::Object(map) => vec![(map, merged.node)],
            Value::Array(elements) => elements
                .into_iter()
                .zip(merged.node.children)
                .rev()
                .map(|(element, child)| match element {
                    Value::Object(map) => Ok((map, child.node)),
                    _ => Err(wrong()),
                })
                .collect::<Result<_, _>>()?,
            _ => return Err(wrong()),
        };
        let places = self.places.get_or_insert_with(|| {
            let keys = self.map.keys().cloned();
            keys.enumerate().map(|(index, key)| (key, index)).collect()
        });
        for (map, node) in sources {
            for ((key, value), child) in map.into_iter().zip(node.children) {
                let child = Child { key: None, ..child };
                if let Some(&index) = places.get(&key) {
                    self.children[index] = child;
                } else {
                    places.insert(key.clone(), self.children.len());
                    self.children.push(child);
                }
                self.map.insert(key, value);
            }
        }
        Ok(())
    }
}

fn plain_or_tagged(
    text: Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<Value, String> {
    let Some(tag) = tag else {
        return match style {
            ScalarStyle::Plain => scalar::resolve(&text),
            _ => Ok(Value::String(text.into_owned())),
        };
    };
    if tag.suffix_in_namespace("tag:yaml.org,2002:").as_deref() == Some("binary") {
        return scalar::binary(&text).map(Value::String);
    }
    // Every other tag makes a string.
    let Some(wanted @ ("null" | "bool" | "int" | "float")) = tag.core_suffix() else {
        return Ok(Value::String(text.into_owned()));
    };
    let value = scalar::resolve(&text)?;
    let fits = match wanted {
        "null" => value.is_null(),
        "bool" => value.is_boolean(),
        "int" => value.is_i64() || value.is_u64(),
        _ => value.is_number(),
    };
    if fits {
        Ok(value)
    } else {
        Err(format!(
            "`{text}` is not of the type that its tag `!!{wanted}` says"
        ))
    }
}

/// A key as a string, as in JSON. As in Kubernetes, booleans and numbers are converted.
fn key_text(key: Value) -> Result<String, String> {
    match key {
        Value::String(text) => Ok(text),
        Value::Bool(_) | Value::Number(_) => Ok(key.to_string()),
        Value::Null => Err("a key cannot be null; quote it if it is text".to_owned()),
        Value::Array(_) | Value::Object(_) => Err(
            "a key cannot be a collection; `{{ … }}` of a template must be rendered first"
                .to_owned(),
        ),
    }
}

fn check_depth(depth: usize, height: usize, span: Span) -> Result<(), SyntaxError> {
    if depth + height > MAX_DEPTH {
        return Err(error(format!("values nest deeper than {MAX_DEPTH}"), span));
    }
    Ok(())
}

fn leaf(span: Span, style: Style) -> Node {
    Node {
        span,
        style,
        children: Vec::new(),
    }
}

fn error(message: impl Into<String>, span: Span) -> SyntaxError {
    SyntaxError {
        message: message.into(),
        offset: span.start(),
    }
}
