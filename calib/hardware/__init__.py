"""A device: its peaks and floors, the card found, the CPU found."""

from calib.hardware.datasheet import Hardware, floor, load_hardware

__all__ = ["Hardware", "floor", "load_hardware"]
