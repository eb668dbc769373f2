//! Paths of fields in objects, in Kubernetes' notation and as JSON Pointers.

use std::fmt;

/// One step of a [`FieldPath`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// A member of an object.
    Key(String),
    /// An element of a list, from 0.
    Index(usize),
}

/// The path of a field in an object. Displayed in Kubernetes' notation:
/// `spec.containers[0].env[3]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    /// Appends the key of a member.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.push(Step::Key(key.into()));
        self
    }

    /// Appends the index of an element.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    /// The steps from the object's root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The same path as a JSON Pointer (RFC 6901).
    pub fn pointer(&self) -> jsonptr::PointerBuf {
        let mut pointer = jsonptr::PointerBuf::new();
        for step in &self.0 {
            match step {
                Step::Key(key) => pointer.push_back(key.as_str()),
                Step::Index(index) => pointer.push_back(*index),
            }
        }
        pointer
    }
}

impl<K: Into<String>> FromIterator<K> for FieldPath {
    fn from_iter<T: IntoIterator<Item = K>>(keys: T) -> Self {
        keys.into_iter().fold(Self::default(), FieldPath::key)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                // As `field.Path` of k8s.io/apimachinery: brackets around a key that is not a plain
                // name.
                Step::Key(key) if key.contains(['.', '/', '[']) => write!(f, "[{key}]")?,
                Step::Key(key) if i == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_kubernetes_does() {
        let path: FieldPath = ["spec", "jobTemplate", "spec", "template", "spec"]
            .into_iter()
            .collect();
        let path = path.key("containers").index(0).key("env").index(3);
        assert_eq!(
            path.to_string(),
            "spec.jobTemplate.spec.template.spec.containers[0].env[3]"
        );
        assert_eq!(
            path.pointer().as_str(),
            "/spec/jobTemplate/spec/template/spec/containers/0/env/3"
        );
        let odd = ["metadata", "labels", "a/b~c"]
            .into_iter()
            .collect::<FieldPath>();
        assert_eq!(odd.to_string(), "metadata.labels[a/b~c]");
        assert_eq!(odd.pointer().as_str(), "/metadata/labels/a~1b~0c");
    }
}
