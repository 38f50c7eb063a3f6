//! Parameters and launch directives of a kernel.

use crate::address::{Global, Param, Ptr};
use crate::class::{B32, B64, F32};
use crate::kernel::Kernel;
use crate::register::Reg;
use crate::target::{ANY, sm};
use crate::tensor_map::TensorMap;

impl Kernel {
    /// A pointer to global memory. Ask for parameters in the order in which the launch gives them.
    pub fn param_ptr(&self, name: &str) -> Ptr<Global> {
        let generic = self.param_u64(name);
        let global = self.reg();
        self.emit(None, "cvta.to.global.u64", ANY, Some(&global), &[&generic]);
        Ptr::new(global)
    }

    /// A 32-bit integer.
    pub fn param_u32(&self, name: &str) -> Reg<B32> {
        self.param(name, &format!(".param .u32 {name}"));
        let to = self.reg();
        self.emit(None, &format!("ld.param.u32 $, [{name}]"), ANY, Some(&to), &[]);
        to
    }

    /// A 64-bit integer.
    pub fn param_u64(&self, name: &str) -> Reg<B64> {
        self.param(name, &format!(".param .u64 {name}"));
        let to = self.reg();
        self.emit(None, &format!("ld.param.u64 $, [{name}]"), ANY, Some(&to), &[]);
        to
    }

    /// An f32.
    pub fn param_f32(&self, name: &str) -> Reg<F32> {
        self.param(name, &format!(".param .f32 {name}"));
        let to = self.reg();
        self.emit(None, &format!("ld.param.f32 $, [{name}]"), ANY, Some(&to), &[]);
        to
    }

    /// A tensor map (`CUtensorMap`, 128 bytes) given by value.
    pub fn param_tensor_map(&self, name: &str) -> TensorMap {
        self.param(name, &format!(".param .align 64 .b8 {name}[128]"));
        let (param, generic) = (self.reg::<B64>(), self.reg());
        self.emit(None, &format!("mov.b64 $, {name}"), ANY, Some(&param), &[]);
        self.emit(None, "cvta.param.u64", ANY.ptx(7, 7), Some(&generic), &[&param]);
        TensorMap::new(Ptr::new(generic))
    }

    /// A block of bytes given by value, to be read by [`ld_param`](Self::ld_param): a struct, or an array indexed at run
    /// time. All parameters together have 4 KB.
    pub fn param_block(&self, name: &str, align: usize, bytes: usize) -> Ptr<Param> {
        self.param(name, &format!(".param .align {align} .b8 {name}[{bytes}]"));
        let to = self.reg();
        self.emit(None, &format!("mov.b64 $, {name}"), ANY, Some(&to), &[]);
        Ptr::new(to)
    }

    /// The most threads a block may have, in x, y, z.
    pub fn maxntid(&self, [x, y, z]: [u32; 3]) {
        self.directive(format!(".maxntid {x}, {y}, {z}"));
    }

    /// The threads that a block has, in x, y, z.
    pub fn reqntid(&self, [x, y, z]: [u32; 3]) {
        self.directive(format!(".reqntid {x}, {y}, {z}"));
    }

    /// How many blocks an SM should hold at once; needs [`maxntid`](Self::maxntid) or [`reqntid`](Self::reqntid).
    pub fn minnctapersm(&self, blocks: u32) {
        self.directive(format!(".minnctapersm {blocks}"));
    }

    /// The most registers a thread may have.
    pub fn maxnreg(&self, registers: u32) {
        self.directive(format!(".maxnreg {registers}"));
    }

    /// The blocks that a cluster has, in x, y, z.
    pub fn reqnctapercluster(&self, [x, y, z]: [u32; 3]) {
        self.require(".reqnctapercluster", sm(90));
        self.directive(format!(".explicitcluster\n.reqnctapercluster {x}, {y}, {z}"));
    }

    fn param(&self, name: &str, declaration: &str) {
        self.declare(name);
        self.state.borrow_mut().params.push(declaration.into());
    }

    fn directive(&self, directive: String) {
        self.state.borrow_mut().directives.push(directive);
    }
}
