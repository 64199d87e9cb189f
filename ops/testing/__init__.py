"""What an app's own tests use; its public name is viber_courier.testing."""
