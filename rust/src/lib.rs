//! The Python binding: the only crate that knows Python. Bytes and JSON in, bytes and JSON out; no logic lives here.

use std::os::fd::IntoRawFd;

use egress_flowlog::{ResolverCounter, WorkerCounter, layout as places};
use egress_policy::{
    Accept, End, Evidence, Identity, Problem, Reason, Snapshot, Source, Stage, Verdict,
};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// Allocation on the data plane is rare but bursty; mimalloc gives memory back and does not share arenas across workers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pyo3::create_exception!(
    _dataplane,
    PolicyError,
    PyValueError,
    "A policy that cannot be compiled; see `problems`."
);

/// Problems as Python sees them: `(path, code, message, fix)`.
fn policy_error(py: Python<'_>, problems: &[Problem]) -> PyErr {
    let error = PolicyError::new_err(format!("{} problems in the policy", problems.len()));
    let list = pyo3::types::PyList::empty(py);
    for problem in problems {
        let path = pyo3::types::PyList::empty(py);
        for part in &problem.path {
            let added = match part {
                egress_policy::PathPart::Key(key) => path.append(key),
                egress_policy::PathPart::Index(index) => path.append(*index),
            };
            if let Err(error) = added {
                return error;
            }
        }
        if let Err(error) = list.append((path, problem.code, &problem.message, &problem.fix)) {
            return error;
        }
    }
    match error.value(py).setattr("problems", list) {
        Ok(()) => error,
        Err(other) => other,
    }
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A compiled policy: the same code decides here, in the gateway, and in replay.
#[pyclass(frozen, module = "egress_core._dataplane")]
struct Policy {
    bytes: Vec<u8>,
    snapshot: Snapshot,
}

#[pymethods]
impl Policy {
    /// Compiles a normalised document; raises PolicyError with every problem.
    #[staticmethod]
    fn compile(py: Python<'_>, document: &[u8]) -> PyResult<Self> {
        let compiled: Result<_, Vec<Problem>> = py.detach(|| {
            let bytes = egress_policy::compile(document)?;
            // The snapshot reads from a copy of its own: a million names are some 40 MB for the moment of a reload.
            let snapshot = Snapshot::open(bytes.clone()).map_err(|error| {
                let fix = "report this: a compiled policy must open".to_owned();
                vec![Problem {
                    path: Vec::new(),
                    code: "internal",
                    message: error.to_string(),
                    fix,
                }]
            })?;
            Ok((bytes, snapshot))
        });
        match compiled {
            Ok((bytes, snapshot)) => Ok(Self { bytes, snapshot }),
            Err(problems) => Err(policy_error(py, &problems)),
        }
    }

    #[getter]
    fn digest(&self) -> String {
        self.snapshot.digest()
    }

    #[getter]
    fn rules(&self) -> usize {
        self.snapshot.rule_count()
    }

    #[getter]
    fn names(&self) -> usize {
        self.snapshot.name_count()
    }

    /// Bytes of the compiled form.
    #[getter]
    fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The compiled form in a new sealed memfd; the caller owns the descriptor.
    fn seal(&self, py: Python<'_>) -> PyResult<i32> {
        let fd = py.detach(|| egress_sys::seal("egress-snapshot", &self.bytes));
        fd.map(IntoRawFd::into_raw_fd).map_err(|error| PyOSError::new_err(error.to_string()))
    }

    /// The decision with everything that led to it, as JSON.
    #[pyo3(signature = (source, host, port, *, user=None, spiffe=None, tlv=None))]
    #[allow(clippy::too_many_arguments)]
    fn explain<'py>(
        &self,
        py: Python<'py>,
        source: &str,
        host: &str,
        port: u16,
        user: Option<&str>,
        spiffe: Option<&str>,
        tlv: Option<&str>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let identity = identity(user, spiffe, tlv)?;
        json(py, &self.explanation(source, &identity, host, port)?)
    }

    fn rule_name(&self, index: u32) -> Option<String> {
        self.snapshot.rule(egress_policy::RuleId(index)).map(|rule| rule.name.to_owned())
    }
}

impl Policy {
    fn explanation(
        &self,
        source: &str,
        identity: &Identity,
        host: &str,
        port: u16,
    ) -> PyResult<egress_policy::Explanation> {
        let source = source
            .parse()
            .map_err(|_| PyValueError::new_err(format!("{source:?} is not an IP address")))?;
        let host = egress_hello::name::parse_host(host.as_bytes())
            .map_err(|error| PyValueError::new_err(format!("{host:?} is not a host: {error}")))?;
        let source = Source::new(source, Evidence::Address, Some(identity));
        Ok(self.snapshot.explain(source, &host, port, unix_seconds()))
    }
}

/// What a caller has shown besides its address.
fn identity(user: Option<&str>, spiffe: Option<&str>, tlv: Option<&str>) -> PyResult<Identity> {
    let mut identity = Identity::default();
    if let Some(user) = user {
        identity = identity.with_user(user.as_bytes());
    }
    if let Some(id) = spiffe {
        identity = identity.with_spiffe(id);
    }
    if let Some(value) = tlv {
        identity = identity.with_tlv(value.as_bytes());
    }
    let taken = [
        ("user", user, identity.user().is_some()),
        ("SPIFFE ID", spiffe, identity.spiffe().is_some()),
        ("TLV", tlv, identity.tlv().is_some()),
    ];
    match taken.into_iter().find(|(_, given, taken)| given.is_some() && !taken) {
        Some((what, given, _)) => {
            Err(PyValueError::new_err(format!("{:?} is not a {what}", given.unwrap_or_default())))
        }
        None => Ok(identity),
    }
}

fn json<'py>(py: Python<'py>, value: &impl serde::Serialize) -> PyResult<Bound<'py, PyBytes>> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(PyBytes::new(py, &bytes))
}

/// The data plane: `run` enters Rust and stays there until the gateway has stopped.
#[pyclass(frozen, module = "egress_core._dataplane")]
struct Gateway {
    options: Vec<u8>,
}

#[pymethods]
impl Gateway {
    #[new]
    fn new(options: &[u8]) -> Self {
        Self { options: options.to_vec() }
    }

    /// Runs the gateway; gives the process's exit code.
    fn run(&self, py: Python<'_>) -> PyResult<i32> {
        py.detach(|| egress_proxy::run(&self.options))
            .map_err(|error| PyOSError::new_err(error.to_string()))
    }
}

/// "release" or "debug": benchmarks refuse the latter.
#[pyfunction]
fn build_profile() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// Whether a listener can serve TLS by these files, in PEM; else which key names the one to blame, why, and what to do.
#[pyfunction]
#[pyo3(signature = (certificate, key, client_ca=None))]
fn check_tls(
    py: Python<'_>,
    certificate: &[u8],
    key: &[u8],
    client_ca: Option<&[u8]>,
) -> Option<(&'static str, String, &'static str)> {
    let files =
        egress_front::Files { certificate, key, client_ca, client_required: true, http: true };
    let checked = py.detach(|| egress_front::ServerTls::new(files));
    checked.err().map(|problem| (problem.which.key(), problem.message, problem.fix))
}

/// The words of the record's enumerations by their numbers.
#[pyfunction]
fn vocabulary(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let all = PyDict::new(py);
    for (name, words) in [
        ("verdict", Verdict::WORDS),
        ("reason", Reason::WORDS),
        ("end", End::WORDS),
        ("accept", Accept::WORDS),
        ("stage", Stage::WORDS),
        ("evidence", Evidence::WORDS),
    ] {
        let by_number = PyDict::new(py);
        for (number, word) in words {
            by_number.set_item(number, word)?;
        }
        all.set_item(name, by_number)?;
    }
    Ok(all)
}

/// The names of the counter pages' words, by index.
#[pyfunction]
fn counters(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let all = PyDict::new(py);
    all.set_item("worker", WorkerCounter::NAMES)?;
    all.set_item("resolver", ResolverCounter::NAMES)?;
    Ok(all)
}

/// Every offset and size of the shared memory, for the test that compares them with the Cython reader's.
#[pyfunction]
fn layout(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let all = PyDict::new(py);
    for (key, value) in places::fields() {
        all.set_item(key, value)?;
    }
    Ok(all)
}

#[pymodule]
#[pyo3(name = "_dataplane")]
fn dataplane(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Policy>()?;
    module.add_class::<Gateway>()?;
    module.add("PolicyError", module.py().get_type::<PolicyError>())?;
    module.add_function(wrap_pyfunction!(build_profile, module)?)?;
    module.add_function(wrap_pyfunction!(check_tls, module)?)?;
    module.add_function(wrap_pyfunction!(vocabulary, module)?)?;
    module.add_function(wrap_pyfunction!(counters, module)?)?;
    module.add_function(wrap_pyfunction!(layout, module)?)?;
    Ok(())
}
