//! Whole runs of the command line, as people see them. `TRYCMD=overwrite cargo test --test cmd` takes over what changed.

#[test]
fn what_the_command_line_prints() {
    trycmd::TestCases::new()
        .case("tests/cmd/*.trycmd")
        .case("docs/review.md");
}
