"""What of the project is asked here, and how: the only file that imports it from ``calib``."""

# ruff: noqa: F401 -- names that the other files take from here

from __future__ import annotations

from calib.cards.shipped import Layered, load_card
from calib.checkout import CONF, ROOT
from calib.errors import CalibError
from calib.estimate import Estimator, operator_table
from calib.fit import Calibration, fit, group_of, measured_shapes, uncalibrated
from calib.hardware import Hardware, floor, load_hardware, peak
from calib.hf import load as load_hf
from calib.host_costs import EAGER, EAGER_OPERATOR, MODULE_CODE, HostCosts, host_costs
from calib.measure.reference import Measurement, load_measurement
from calib.measured import join_operators
from calib.samples import Sample, read_samples
from calib.timeline import with_wall
from calib.tracing.rows import Row, Size, argument_names, is_pointwise, name_of
from calib.tracing.table import calls_of, operators_of
from calib.tracing.tree import TracedLayer
