//! Gives the shared library its SONAME: the number changes only when the ABI breaks (`QLK_ABI_VERSION` in the header).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux" | "android" | "freebsd" | "netbsd" | "openbsd") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libqlora_kernels.so.0");
        }
        Ok("macos") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libqlora_kernels.0.dylib");
        }
        _ => {}
    }
}
