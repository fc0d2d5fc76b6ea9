"""From one whole scan and a network to a label map on the scan's own grid."""
