//! The program `nfvs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nfvs::cli::main()
}
