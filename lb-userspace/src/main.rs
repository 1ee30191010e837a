//! The `gatehouse` binary: hands the command line to the composition.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    lb_userspace::app::cli::main()
}
