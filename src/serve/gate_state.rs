//! What a gate's Job is doing.

use migration_gate_core::job::{Job, JobState};

/// What a gate's Job is doing: few values, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateState {
    /// The Job can't be watched.
    Unknown,
    /// There is no Job, and no record of one.
    Absent,
    /// There is no Job any more, and the record has completions.
    Recorded,
    /// It has not ended.
    Running,
    /// It is complete.
    Complete,
    /// It has failed.
    Failed,
}

impl GateState {
    /// The words that [`Self::metric`] can be.
    pub(super) const METRICS: [&'static str; 3] = ["open", "waiting", "failed"];

    /// The state of a Job that is there.
    pub(super) fn of(job: &Job) -> Self {
        match job.state {
            JobState::Complete { .. } => Self::Complete,
            JobState::Failed { .. } => Self::Failed,
            _ => Self::Running,
        }
    }

    /// Of several Jobs, the state of the worst is the gate's.
    pub(super) fn severity(self) -> u8 {
        match self {
            Self::Complete | Self::Recorded => 0,
            Self::Absent => 1,
            Self::Running => 2,
            Self::Unknown => 3,
            Self::Failed => 4,
        }
    }

    /// The word in metrics, which tell what the state means for the pods that the gate holds.
    pub(super) fn metric(self) -> &'static str {
        match self {
            Self::Complete | Self::Recorded => "open",
            Self::Unknown | Self::Absent | Self::Running => "waiting",
            Self::Failed => "failed",
        }
    }
}
