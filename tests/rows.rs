//! The waiter's rows, against a fake API server.

fn main() -> std::process::ExitCode {
    testkit::rows::main()
}
