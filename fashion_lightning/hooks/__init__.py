"""What the module does around its steps, one mixin of LightningModule hooks per file."""
