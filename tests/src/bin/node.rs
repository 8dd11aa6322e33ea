//! The gateway, built together with the scenarios, so that they always start today's build.

fn main() -> std::process::ExitCode {
    gateway::cli::run()
}
