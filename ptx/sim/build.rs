//! Gives the stand-in driver the SONAME that programs look for: once it is loaded, glibc resolves every later
//! `dlopen("libcuda.so")` to it. The file itself is not named so, or it would hide a real driver on the library path.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    }
}
